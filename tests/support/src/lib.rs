//! What tests of several crates share: [`frame`] makes packets layer by layer, [`CountingAllocator`] counts allocations.
//!
//! It depends on no crate, so that every crate can use it in its tests. What end-to-end tests share is in `chaff-tests`.
#![warn(missing_docs)]

mod allocations;
pub mod frame;

pub use allocations::{CountingAllocator, allocations};
