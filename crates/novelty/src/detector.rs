use std::fmt;
use std::str::FromStr;

use rand::RngCore;

use crate::autoencoder::Autoencoder;
use crate::codec::Reader;
use crate::forest::Forest;
use crate::gmm::Mixture;
use crate::kde::Kde;
use crate::neighbours::Neighbours;
use crate::ocsvm::OneClassSvm;
use crate::online::Online;
use crate::pca::{Measure, Pca};
use crate::{
    FitError, MatRef, ModelError, autoencoder, forest, gmm, kde, neighbours, ocsvm, online, pca,
};

/// The detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One-class support vector machine.
    Ocsvm,
    /// Kernel density.
    Kde,
    /// Gaussian mixture.
    Gmm,
    /// Principal components.
    Pca,
    /// Isolation forest.
    IsolationForest,
    /// Autoencoder.
    Autoencoder,
    /// Distance to neighbours.
    Knn,
    /// Ensemble of autoencoders that goes on learning.
    Online,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ocsvm,
        Self::Kde,
        Self::Gmm,
        Self::Pca,
        Self::IsolationForest,
        Self::Autoencoder,
        Self::Knn,
        Self::Online,
    ];

    /// The name on the command line and in models.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ocsvm => "ocsvm",
            Self::Kde => "kde",
            Self::Gmm => "gmm",
            Self::Pca => "pca",
            Self::IsolationForest => "if",
            Self::Autoencoder => "ae",
            Self::Knn => "knn",
            Self::Online => "online",
        }
    }

    /// What it is, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Ocsvm => "one-class support vector machine with a Gaussian kernel",
            Self::Kde => "kernel density estimate with a Gaussian kernel",
            Self::Gmm => "Gaussian mixture with full covariances",
            Self::Pca => "distance along principal components",
            Self::IsolationForest => "isolation forest",
            Self::Autoencoder => "autoencoder with hyperbolic tangents",
            Self::Knn => "distance to the nearest training rows",
            Self::Online => "ensemble of small autoencoders that goes on learning",
        }
    }

    /// Its settings with their defaults.
    pub fn settings(self) -> Settings {
        match self {
            Self::Ocsvm => Settings::Ocsvm(ocsvm::Settings::default()),
            Self::Kde => Settings::Kde(kde::Settings::default()),
            Self::Gmm => Settings::Gmm(gmm::Settings::default()),
            Self::Pca => Settings::Pca(pca::Settings::default()),
            Self::IsolationForest => Settings::IsolationForest(forest::Settings::default()),
            Self::Autoencoder => Settings::Autoencoder(autoencoder::Settings::default()),
            Self::Knn => Settings::Knn(neighbours::Settings::default()),
            Self::Online => Settings::Online(online::Settings::default()),
        }
    }

    /// Its settings as netml 0.7.1 has them, for comparison. Kinds that netml lacks have their defaults; so has the
    /// autoencoder, which netml makes linear by mistake.
    pub fn netml_settings(self) -> Settings {
        match self {
            Self::Kde => Settings::Kde(kde::Settings {
                bandwidth: Some(1.0),
            }),
            Self::Gmm => Settings::Gmm(gmm::Settings::NETML),
            Self::Pca => Settings::Pca(pca::Settings::NETML),
            other => other.settings(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = FitError;

    fn from_str(name: &str) -> Result<Self, FitError> {
        Self::ALL
            .into_iter()
            .find(|k| k.name() == name.to_ascii_lowercase())
            .ok_or_else(|| FitError::Name {
                what: "detector",
                name: name.to_owned(),
                known: "ocsvm, kde, gmm, pca, if, ae, knn, online",
            })
    }
}

/// Settings of one detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Settings {
    /// Of [`Kind::Ocsvm`].
    Ocsvm(ocsvm::Settings),
    /// Of [`Kind::Kde`].
    Kde(kde::Settings),
    /// Of [`Kind::Gmm`].
    Gmm(gmm::Settings),
    /// Of [`Kind::Pca`].
    Pca(pca::Settings),
    /// Of [`Kind::IsolationForest`].
    IsolationForest(forest::Settings),
    /// Of [`Kind::Autoencoder`].
    Autoencoder(autoencoder::Settings),
    /// Of [`Kind::Knn`].
    Knn(neighbours::Settings),
    /// Of [`Kind::Online`].
    Online(online::Settings),
}

impl Settings {
    /// Whose settings they are.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ocsvm(_) => Kind::Ocsvm,
            Self::Kde(_) => Kind::Kde,
            Self::Gmm(_) => Kind::Gmm,
            Self::Pca(_) => Kind::Pca,
            Self::IsolationForest(_) => Kind::IsolationForest,
            Self::Autoencoder(_) => Kind::Autoencoder,
            Self::Knn(_) => Kind::Knn,
            Self::Online(_) => Kind::Online,
        }
    }

    /// Changes one setting by its name; the names of scikit-learn's parameters, which netml passes on, are understood too.
    ///
    /// # Errors
    /// [`FitError::UnknownSetting`] and [`FitError::Value`]; ranges are checked by [`Settings::fit`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), FitError> {
        let kind = self.kind().name();
        let bad = || FitError::Value {
            kind,
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let number = || value.parse::<f64>().map_err(|_| bad());
        let whole = || value.parse::<usize>().map_err(|_| bad());
        let known = match (&mut *self, name) {
            (Self::Ocsvm(s), "nu") => return number().map(|v| s.nu = v),
            (Self::Ocsvm(s), "gamma") => {
                s.gamma = match value {
                    "scale" => None,
                    _ => Some(number()?),
                };
                return Ok(());
            }
            (Self::Ocsvm(s), "tolerance" | "tol") => return number().map(|v| s.tolerance = v),
            (Self::Ocsvm(_), _) => "nu, gamma, tolerance",
            (Self::Kde(s), "bandwidth") => {
                s.bandwidth = match value {
                    "scott" => None,
                    _ => Some(number()?),
                };
                return Ok(());
            }
            (Self::Kde(_), _) => "bandwidth",
            (Self::Gmm(s), "components" | "n_components") => {
                return whole().map(|v| s.components = v);
            }
            (Self::Gmm(s), "regularisation" | "reg_covar") => {
                return number().map(|v| s.regularisation = v);
            }
            (Self::Gmm(s), "rounds" | "max_iter") => return whole().map(|v| s.rounds = v),
            (Self::Gmm(s), "tolerance" | "tol") => return number().map(|v| s.tolerance = v),
            (Self::Gmm(s), "starts" | "n_init") => return whole().map(|v| s.starts = v),
            (Self::Gmm(_), _) => "components, regularisation, rounds, tolerance, starts",
            (Self::Pca(s), "measure") => {
                s.measure = match value {
                    "variance" => Measure::Variance,
                    "tips" => Measure::Tips,
                    _ => return Err(bad()),
                };
                return Ok(());
            }
            (Self::Pca(s), "floor") => return number().map(|v| s.floor = v),
            (Self::Pca(_), _) => "measure, floor",
            (Self::IsolationForest(s), "trees" | "n_estimators") => {
                return whole().map(|v| s.trees = v);
            }
            (Self::IsolationForest(s), "sample" | "max_samples") => {
                return whole().map(|v| s.sample = v);
            }
            (Self::IsolationForest(_), _) => "trees, sample",
            (Self::Autoencoder(s), "hidden") => return whole().map(|v| s.hidden = v),
            (Self::Autoencoder(s), "code") => return whole().map(|v| s.code = v),
            (Self::Autoencoder(s), "epochs") => return whole().map(|v| s.epochs = v),
            (Self::Autoencoder(s), "batch" | "batch_size") => return whole().map(|v| s.batch = v),
            (Self::Autoencoder(s), "rate" | "lr") => return number().map(|v| s.rate = v),
            (Self::Autoencoder(s), "noise") => return number().map(|v| s.noise = v),
            (Self::Autoencoder(_), _) => "hidden, code, epochs, batch, rate, noise",
            (Self::Knn(s), "neighbours" | "n_neighbors") => {
                return whole().map(|v| s.neighbours = v);
            }
            (Self::Knn(s), "mean") => {
                return value.parse().map(|v| s.mean = v).map_err(|_| bad());
            }
            (Self::Knn(_), _) => "neighbours, mean",
            (Self::Online(s), "group") => return whole().map(|v| s.group = v),
            (Self::Online(s), "rate") => return number().map(|v| s.rate = v),
            (Self::Online(s), "half_life") => return number().map(|v| s.half_life = v),
            (Self::Online(s), "passes") => return whole().map(|v| s.passes = v),
            (Self::Online(s), "skip") => return number().map(|v| s.skip = v),
            (Self::Online(_), _) => "group, rate, half_life, passes, skip",
        };
        Err(FitError::UnknownSetting {
            kind,
            name: name.to_owned(),
            known,
        })
    }

    /// Learns from rows. Everything drawn comes from `rng`: the same rows and the same stream give the same detector.
    ///
    /// # Errors
    /// [`FitError`].
    pub fn fit(
        &self,
        rows: MatRef<'_>,
        rng: &mut dyn RngCore,
    ) -> Result<Box<dyn Detector>, FitError> {
        Ok(match self {
            Self::Ocsvm(s) => Box::new(OneClassSvm::fit(s, rows)?),
            Self::Kde(s) => Box::new(Kde::fit(s, rows)?),
            Self::Gmm(s) => Box::new(Mixture::fit(s, rows, rng)?),
            Self::Pca(s) => Box::new(Pca::fit(s, rows)?),
            Self::IsolationForest(s) => Box::new(Forest::fit(s, rows, rng)?),
            Self::Autoencoder(s) => Box::new(Autoencoder::fit(s, rows, rng)?),
            Self::Knn(s) => Box::new(Neighbours::fit(s, rows)?),
            Self::Online(s) => Box::new(Online::fit(s, rows, rng)?),
        })
    }
}

/// Something that was fitted to known rows and tells how strange others are. Higher is stranger, for every detector.
pub trait Detector: Send + Sync {
    /// Which it is.
    fn kind(&self) -> Kind;

    /// Columns of the rows it was fitted to.
    fn columns(&self) -> usize;

    /// Scores rows of [`Detector::columns`] numbers into as many places of `out`; what is beyond the shorter is left.
    fn score(&self, rows: MatRef<'_>, out: &mut [f64]);

    /// The detector that can go on learning, when it is one.
    fn as_online(&mut self) -> Option<&mut Online> {
        None
    }

    /// What was learnt, as the part of a stored [`Model`](crate::Model) that is about the detector.
    fn to_bytes(&self) -> Vec<u8>;
}

pub(crate) fn read(
    kind: Kind,
    from: &mut Reader<'_>,
    columns: usize,
) -> Result<Box<dyn Detector>, ModelError> {
    Ok(match kind {
        Kind::Ocsvm => Box::new(OneClassSvm::read(from, columns)?),
        Kind::Kde => Box::new(Kde::read(from, columns)?),
        Kind::Gmm => Box::new(Mixture::read(from, columns)?),
        Kind::Pca => Box::new(Pca::read(from, columns)?),
        Kind::IsolationForest => Box::new(Forest::read(from, columns)?),
        Kind::Autoencoder => Box::new(Autoencoder::read(from, columns)?),
        Kind::Knn => Box::new(Neighbours::read(from, columns)?),
        Kind::Online => Box::new(Online::read(from, columns)?),
    })
}
