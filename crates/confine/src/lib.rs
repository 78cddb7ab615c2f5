//! Programs that face a network give up what they need only to start: first [`privileges`], then, by [`sandbox`], what their
//! user could still do.
//!
//! ```no_run
//! use chaff_confine::{privileges, sandbox};
//!
//! privileges::seal()?; // while there is one thread
//! // ... open sockets and files ...
//! let user = privileges::Identity::of("nobody")?;
//! privileges::drop_privileges(user)?;
//! privileges::verify(user)?;
//! sandbox::confine(&sandbox::Kept { folders: vec!["/var/lib/chaff".into()], tcp_ports: vec![53] })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod privileges;
pub mod sandbox;
