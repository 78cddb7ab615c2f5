//! Small networks over windows of slots, with explicit gradients.
//!
//! The trainer's attackers (LSTM, GRU, convolution, dense layers on sequences) and the gradient that its generators learn
//! from. Start at [`Network`]: a list of [`Layer`]s, [`Network::forward`], [`Network::backward`], [`Network::step`];
//! [`fit`] trains with early stopping; [`Network::to_graph`] gives the ONNX graph. [`Critic`] and
//! [`BatchNorm`] are parts of generative adversarial networks, for who puts layers together himself.
//!
//! ```
//! use chaff_learn::{Activation, Fit, Layer, Network, Samples, fit};
//! use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! let mut rng = ChaCha20Rng::from_seed([1; 32]);
//! // Windows of 3 steps and 2 values; the class is which value is on.
//! let mut samples = Samples::new(3, 2);
//! for i in 0..40 {
//!     let on = [[1.0, 0.0], [0.0, 1.0]][i % 2];
//!     samples.push(&[on, on, on].concat(), 0.0, i % 2);
//! }
//! let mut net = Network::<f32>::new(3, vec![
//!     Layer::bi_lstm(2, 4, false, 0.0, &mut rng),
//!     Layer::dense(8, 2, Activation::None, &mut rng),
//! ]);
//! fit(&mut net, &samples, None, &Fit { epochs: 30, batch: 8, rate: 0.01, ..Fit::default() }, &mut rng, &mut |_, _| {});
//! assert_eq!(net.accuracy(&samples), 1.0);
//! ```
//!
//! Matrices are `features x columns`; the columns of a sequence are ordered by time first, then by sample, so that a step
//! in time, and all taps of a convolution, are plain column ranges. Arithmetic is on one thread and in a fixed order, and
//! all that is drawn comes from the caller's generator: the same seed gives the same weights on the same machine.
//! All code is generic over `f32` (training) and `f64` (the tests compare every gradient with finite differences).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod critic;
mod export;
mod layer;
mod network;
mod norm;
mod real;
mod recurrent;
mod training;

pub use critic::{Critic, Scores};
pub use layer::{Activation, Conv1d, Dense, Layer, Parameter, cut, cut_mut, normal};
pub use network::Network;
pub use norm::BatchNorm;
pub use real::Real;
pub use recurrent::{Gru, Lstm};
pub use training::{Fit, Optimizer, Samples, fit};
