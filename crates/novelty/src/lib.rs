//! Novelty detectors over a matrix: fit, score, threshold, explain, save. Knows nothing of packets.
//!
//! Data flow: `rows of known traffic → [`Scaler`] → [`Settings::fit`] → [`Detector`]`, all of it kept in a [`Model`] with
//! the threshold and the names of the columns; then `rows → [`Model::score`] → [`Model::is_novel`], [`Model::explain`]`.
//! One convention: a higher score is stranger, for every detector. Everything drawn comes from the generator that the
//! caller gives.
//!
//! ```
//! use chaff_novelty::{Kind, MatRef, Model, Scaling};
//! # struct Steps(u64);
//! # impl rand::RngCore for Steps {
//! #     fn next_u32(&mut self) -> u32 { self.next_u64() as u32 }
//! #     fn next_u64(&mut self) -> u64 { self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1); self.0 ^ self.0 >> 31 }
//! #     fn fill_bytes(&mut self, _: &mut [u8]) {}
//! # }
//! # let mut rng = Steps(1);
//! let known: Vec<f64> = (0..200).flat_map(|i| [(i % 10) as f64, (i % 7) as f64]).collect();
//! let names = vec!["packets".to_owned(), "bytes".to_owned()];
//! let rows = MatRef::new(2, &known)?;
//! let model = Model::fit(&Kind::Gmm.settings(), Scaling::ZScore, names, rows, 0.01, &mut rng)?;
//! let model = Model::from_bytes(&model.to_bytes())?;
//! let scores = model.score(MatRef::new(2, &[5.0, 3.0, 5.0, 400.0])?)?;
//! assert!(!model.is_novel(scores[0]) && model.is_novel(scores[1]));
//! assert_eq!(model.explain(&[5.0, 400.0], 1)?[0].column, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | detector | who computes it |
//! | --- | --- |
//! | one-class support vector machine | `libsvm-rs` solves; scores by a dense loop of our own |
//! | principal components | `smartcore` decomposes |
//! | kernel density, mixture, isolation forest, autoencoder, neighbours, online ensemble, [`tails`] | this crate |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod autoencoder;
mod codec;
mod detector;
mod draw;
mod error;
pub mod forest;
pub mod gmm;
pub mod kde;
mod matrix;
mod measure;
mod model;
pub mod neighbours;
mod network;
pub mod ocsvm;
pub mod online;
pub mod pca;
mod points;
mod scaler;
pub mod tails;

pub use detector::{Detector, Kind, Settings};
pub use error::{FitError, ModelError};
pub use matrix::{MatRef, Matrix};
pub use measure::{Point, curve, pr_auc, roc_auc, threshold};
pub use model::{Model, Reason};
pub use scaler::{Scaler, Scaling};
