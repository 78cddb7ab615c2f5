//! Learns cover generators from captures and writes them as signed ONNX models.
//!
//! `captures -> packets of each device -> windows of slots -> attacker and generators -> model files and a report`.
//! Start at [`captures::read`], then [`cover::train`]; the program around them is `trainer`.
//! The method is iPET's (one dense layer per device against a classifier of windows), with a cost term, whole captures
//! held out, and a retrained attacker in the report, because a defence that only fools the attacker it was trained
//! against is worth little.
//!
//! ```
//! use chaff_abi::{Dir, Nanos};
//! use chaff_trainer::windows::{Cutter, Shape};
//! let mut rng = chaff_trainer::cover::stream(7, "example");
//! let mut cutter = Cutter::new(Shape::new(0.1, 4.0)?, 1000);
//! cutter.push(Nanos::from_millis(0), Dir::Out, 52, &mut rng);
//! cutter.push(Nanos::from_millis(130), Dir::In, 1200, &mut rng);
//! let windows = cutter.finish(&mut rng);
//! assert_eq!(windows[0].slots[2..6], [1.0, 52.0, 1.0, 1200.0]); // slot 0 out, slot 1 in
//! # Ok::<(), chaff_trainer::windows::ShapeError>(())
//! ```
//!
//! Arithmetic is in 64-bit floats on one thread, and everything drawn comes from the seed: the same captures and the same
//! options give the same model files, byte for byte, on the same machine.
#![forbid(unsafe_code)]

pub mod aggregates;
pub mod attack_command;
pub mod attacker;
pub mod captures;
pub mod cover;
pub mod cover_command;
mod cover_parts;
pub mod defend;
pub mod devices;
pub mod evaluate;
pub mod evaluate_command;
pub mod features;
pub mod forest;
pub mod generator;
mod home_attack;
pub mod homes;
pub mod ipet;
pub mod ipet_command;
pub mod learn;
pub mod learn_command;
pub mod machines;
pub mod nets;
mod netshare_command;
pub mod network;
pub mod packet_attacks;
pub mod perturb_command;
pub mod picture;
pub mod score;
mod sessions;
mod slots;
pub mod split;
pub mod staged;
pub mod synth_command;
mod synth_evaluate;
mod synth_input;
mod synth_pictures;
mod synth_sample;
pub mod traces;
pub mod windows;
pub mod windows_command;
pub mod winnow;
pub mod winnow_command;
