//! NetShare's own method: its configuration file, its chunks, tags and encodings, and DoppelGANger's networks.
//!
//! Source: Yin and others, "Practical GAN-based Synthetic IP Header Trace Generation using NetShare" (SIGCOMM 2022); Lin
//! and others, "Using GANs for Sharing Networked Time Series Data" (IMC 2020). It differs from NetShare's published code
//! where that code differs from its papers: the penalty is taken between real and made-up flows, every critic round has
//! fresh noise and its own batch, linear layers start after Glorot; and where its output is not a trace: counters are
//! whole, protocols' rules hold, and there are as many records as are asked for.

mod chunk;
mod column;
mod config;
mod draw;
mod field;
mod fit;
mod generator;
mod model;
mod private;
mod select;
mod start;
mod train;
mod tree;
mod words;

pub use column::Rows;
pub use config::{Config, Settings, read_config};
pub use fit::{NetworkOptions, Progress, Unwatched, Watch, fit_doppelganger};
pub use model::Doppelganger;
pub use private::{PrivateNetworkOptions, fit_doppelganger_private};
pub use train::Losses;
