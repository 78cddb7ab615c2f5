//! Autoencoder: rows that a narrow network cannot repeat.

use rand::RngCore;

use crate::codec::{Reader, Writer};
use crate::draw;
use crate::network::{Adam, Network, Pass};
use crate::{Detector, FitError, Kind, MatRef, ModelError};

const KIND: &str = "ae";

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Units of the first hidden layer, 1 to 4096.
    pub hidden: usize,
    /// Units of the narrowest layer, 1 to 4096.
    pub code: usize,
    /// Passes over the rows, 1 to 100,000.
    pub epochs: usize,
    /// Rows of a step, 1 to 65,536.
    pub batch: usize,
    /// Step size, above 0.
    pub rate: f64,
    /// Deviation of the noise added to the inputs while learning, in the unit of the columns; 0 or more.
    pub noise: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hidden: 32,
            code: 6,
            epochs: 60,
            batch: 32,
            rate: 3e-3,
            noise: 0.1,
        }
    }
}

/// A trained network, columns - hidden - code - hidden - columns with hyperbolic tangents. The score is the Euclidean
/// distance between a row and its reconstruction. Columns should have a scale near 1.
#[derive(Clone, Debug)]
pub struct Autoencoder {
    network: Network,
}

impl Autoencoder {
    /// Learns from rows.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(
        settings: &Settings,
        rows: MatRef<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<Self, FitError> {
        rows.check(2)?;
        let whole = |name, value: usize, limit: usize, range| {
            if (1..=limit).contains(&value) {
                Ok(())
            } else {
                Err(FitError::Setting {
                    kind: KIND,
                    name,
                    value: value as f64,
                    range,
                })
            }
        };
        whole("hidden", settings.hidden, 4096, "1 to 4096")?;
        whole("code", settings.code, 4096, "1 to 4096")?;
        whole("epochs", settings.epochs, 100_000, "1 to 100000")?;
        whole("batch", settings.batch, 65_536, "1 to 65536")?;
        for (name, value, least) in [
            ("rate", settings.rate, f64::MIN_POSITIVE),
            ("noise", settings.noise, 0.0),
        ] {
            if !(value >= least && value.is_finite()) {
                return Err(FitError::Setting {
                    kind: KIND,
                    name,
                    value,
                    range: "a positive number",
                });
            }
        }
        let d = rows.columns();
        let mut network = Network::new(
            &[d, settings.hidden, settings.code, settings.hidden, d],
            rng,
        );
        let mut adam = Adam::new(&network, settings.rate);
        let mut pass = Pass::default();
        let mut noisy = vec![0.0; d];
        for _ in 0..settings.epochs {
            for batch in draw::permutation(rng, rows.rows()).chunks(settings.batch) {
                for &i in batch {
                    let row = rows.row(i);
                    for (n, v) in noisy.iter_mut().zip(row) {
                        *n = if settings.noise > 0.0 {
                            v + settings.noise * draw::normal(rng)
                        } else {
                            *v
                        };
                    }
                    network.forward(&noisy, &mut pass);
                    network.backward(row, &mut pass, &mut adam);
                }
                network.update(&mut adam, batch.len());
            }
        }
        Ok(Self { network })
    }

    pub(crate) fn read(from: &mut Reader<'_>, columns: usize) -> Result<Self, ModelError> {
        Network::read(from, columns).map(|network| Self { network })
    }
}

impl Detector for Autoencoder {
    fn kind(&self) -> Kind {
        Kind::Autoencoder
    }

    fn columns(&self) -> usize {
        self.network.inputs()
    }

    fn score(&self, rows: MatRef<'_>, out: &mut [f64]) {
        let mut pass = Pass::default();
        for (row, out) in rows.iter().zip(out) {
            let back = self.network.forward(row, &mut pass);
            let squared: f64 = row.iter().zip(back).map(|(a, b)| (a - b) * (a - b)).sum();
            *out = squared.sqrt();
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::part();
        self.network.write(&mut out);
        out.into_part()
    }
}
