//! What holds for every detector and every model file.
#![allow(clippy::unwrap_used, reason = "a test")]

use chaff_novelty::{
    FitError, Kind, MatRef, Matrix, Model, ModelError, Scaling, Settings, autoencoder, online,
    roc_auc,
};
use proptest::prelude::*;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Two correlated columns, one independent, one constant.
fn known(rows: usize, seed: u64) -> Matrix {
    let mut rng = rng(seed);
    let mut unit = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let values = (0..rows).flat_map(|_| {
        let (a, b, c) = (unit() + unit() + unit(), unit(), unit());
        [10.0 * a, 20.0 * a + b, 5.0 * c, 7.0]
    });
    Matrix::new(4, values.collect()).unwrap()
}

/// Few rounds: what holds, holds early.
fn quick(kind: Kind) -> Settings {
    match kind.settings() {
        Settings::Autoencoder(s) => {
            Settings::Autoencoder(autoencoder::Settings { epochs: 30, ..s })
        }
        Settings::Online(s) => Settings::Online(online::Settings { passes: 5, ..s }),
        other => other,
    }
}

fn names() -> Vec<String> {
    ["a", "b", "c", "d"].map(str::to_owned).to_vec()
}

fn model(kind: Kind, scaling: Scaling, seed: u64) -> Model {
    let rows = known(400, 1);
    Model::fit(
        &quick(kind),
        scaling,
        names(),
        rows.view(),
        0.05,
        &mut rng(seed),
    )
    .unwrap()
}

/// Breaks the correlation of the first two columns, or leaves the range of the third.
fn strange() -> Matrix {
    let rows = [
        [10.0, 45.0, 2.5, 7.0],
        [20.0, 15.0, 2.5, 7.0],
        [15.0, 30.5, 25.0, 7.0],
    ];
    Matrix::new(4, rows.concat()).unwrap()
}

#[test]
fn strange_rows_score_higher_than_known_ones() {
    for kind in Kind::ALL {
        let model = model(kind, Scaling::ZScore, 3);
        let fresh = known(200, 2);
        let mut scores = model.score(fresh.view()).unwrap();
        let alarms = scores.iter().filter(|s| model.is_novel(**s)).count();
        assert!(alarms <= 30, "{kind}: {alarms} false alarms of 200");
        let novel = model.score(strange().view()).unwrap();
        scores.extend(&novel);
        let labels: Vec<bool> = (0..203).map(|i| i >= 200).collect();
        let area = roc_auc(&scores, &labels).unwrap();
        // Cuts along the columns do not see a broken correlation.
        let least = if kind == Kind::IsolationForest {
            0.7
        } else {
            0.97
        };
        assert!(area > least, "{kind}: {area}");
    }
}

#[test]
fn one_seed_gives_one_model_and_bytes_come_back() {
    for kind in Kind::ALL {
        for scaling in [Scaling::LogZScore, Scaling::Rank] {
            let mut first = model(kind, scaling, 9);
            first.facts_mut().insert("kind".into(), "stats".into());
            let bytes = first.to_bytes();
            let mut again = model(kind, scaling, 9);
            again.facts_mut().insert("kind".into(), "stats".into());
            assert_eq!(bytes, again.to_bytes(), "{kind}");
            let back = Model::from_bytes(&bytes).unwrap();
            assert_eq!(back.to_bytes(), bytes, "{kind}");
            assert_eq!(back.facts()["kind"], "stats");
            let rows = known(50, 5);
            assert_eq!(
                back.score(rows.view()).unwrap(),
                first.score(rows.view()).unwrap()
            );
        }
    }
}

#[test]
fn another_seed_gives_another_drawn_model() {
    for kind in [Kind::IsolationForest, Kind::Autoencoder, Kind::Online] {
        let bytes = |seed| model(kind, Scaling::ZScore, seed).to_bytes();
        assert_ne!(bytes(1), bytes(2), "{kind}");
    }
}

#[test]
fn explanation_names_the_column_that_is_wrong() {
    for kind in Kind::ALL {
        let model = model(kind, Scaling::ZScore, 3);
        let reasons = model.explain(&[15.0, 30.5, 25.0, 7.0], 3).unwrap();
        // A density that has no support there and a machine far from all vectors cannot tell columns apart.
        if kind != Kind::Ocsvm {
            assert_eq!(reasons[0].column, 2, "{kind} {reasons:?}");
            assert_eq!(reasons[0].value, 25.0);
            assert!(reasons[0].usual[2] < 5.5 && reasons[0].effect > 0.0);
        }
        assert!(reasons.windows(2).all(|r| r[0].column != r[1].column));
    }
}

#[test]
fn odd_rows_do_not_panic_and_are_novel() {
    for kind in Kind::ALL {
        let model = model(kind, Scaling::ZScore, 3);
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let row = [odd, 1.0, 1.0, 1.0];
            let score = model.score(MatRef::new(4, &row).unwrap()).unwrap()[0];
            assert!(model.is_novel(score), "{kind}");
            model.explain(&row, 4).unwrap();
        }
        for odd in [f64::MAX, f64::MIN, 1e200] {
            let row = [odd, odd, odd, odd];
            let score = model.score(MatRef::new(4, &row).unwrap()).unwrap()[0];
            assert!(!score.is_nan(), "{kind}");
            model.explain(&row, 4).unwrap();
        }
        assert_eq!(
            model.score(MatRef::new(3, &[1.0; 3]).unwrap()).unwrap_err(),
            ModelError::Columns { found: 3, known: 4 }
        );
    }
}

#[test]
fn rows_that_are_all_alike_can_be_learnt_or_are_refused() {
    let rows = Matrix::new(4, vec![3.0; 80]).unwrap();
    for kind in Kind::ALL {
        for scaling in Scaling::ALL {
            let fitted = Model::fit(
                &quick(kind),
                scaling,
                names(),
                rows.view(),
                0.05,
                &mut rng(1),
            );
            match fitted {
                // What two networks make of nothing differs.
                Ok(_) if matches!(kind, Kind::Autoencoder | Kind::Online) => (),
                Ok(model) => {
                    let score = model.score(MatRef::new(4, &[3.0; 4]).unwrap()).unwrap()[0];
                    assert!(!model.is_novel(score), "{kind} {scaling}");
                }
                Err(e) => assert!(matches!(e, FitError::Numerical { .. }), "{kind} {e}"),
            }
        }
    }
}

#[test]
fn bad_settings_and_rows_are_told() {
    let few = MatRef::new(4, &[1.0; 4]).unwrap();
    let nan = [1.0, f64::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    for kind in Kind::ALL {
        let error = kind
            .settings()
            .fit(MatRef::new(4, &nan).unwrap(), &mut rng(1))
            .err();
        assert_eq!(
            error,
            Some(FitError::NotFinite { row: 0, column: 1 }),
            "{kind}"
        );
        let mut settings = kind.settings();
        assert!(matches!(
            settings.set("colour", "1"),
            Err(FitError::UnknownSetting { .. })
        ));
    }
    assert!(Kind::Gmm.settings().fit(few, &mut rng(1)).is_err());
    let mut svm = Kind::Ocsvm.settings();
    svm.set("nu", "1.5").unwrap();
    assert!(matches!(
        svm.fit(known(9, 1).view(), &mut rng(1)),
        Err(FitError::Setting { .. })
    ));
    assert!(matches!(svm.set("nu", "much"), Err(FitError::Value { .. })));
    svm.set("gamma", "scale").unwrap();
}

#[test]
fn the_online_detector_follows_drift_and_not_attacks() {
    let mut model = model(Kind::Online, Scaling::None, 3);
    let novel = |model: &Model, row: &[f64; 4]| {
        let score = model.score(MatRef::new(4, row).unwrap()).unwrap()[0];
        model.is_novel(score)
    };
    let attack = [15.0, 30.5, 40.0, 7.0];
    assert!(novel(&model, &attack));
    // Attacks alone do not become normal.
    for _ in 0..2000 {
        model.observe(&attack).unwrap();
    }
    assert!(novel(&model, &attack));
    // A slow shift does: the third column drifts by five of its deviations over 20,000 rows.
    let size = model.to_bytes().len();
    let drift = known(20_000, 8);
    for (i, row) in drift.view().iter().enumerate() {
        let moved = [row[0], row[1], row[2] + 7.0 * i as f64 / 20_000.0, row[3]];
        model.observe(&moved).unwrap();
    }
    let late = known(200, 11);
    let alarms = |shift: f64| {
        late.view()
            .iter()
            .filter(|r| novel(&model, &[r[0], r[1], r[2] + shift, r[3]]))
            .count()
    };
    assert!(alarms(7.0) < 40, "{}", alarms(7.0));
    assert!(alarms(-20.0) > 150, "{}", alarms(-20.0));
    assert_eq!(model.to_bytes().len(), size, "memory does not grow");
}

#[test]
fn damage_is_noticed() {
    let bytes = model(Kind::Gmm, Scaling::ZScore, 3).to_bytes();
    assert_eq!(Model::from_bytes(b"hello").err(), Some(ModelError::Magic));
    assert_eq!(
        Model::from_bytes(&bytes[..9])
            .err()
            .map(|e| e.to_string().contains("cut")),
        Some(true)
    );
    let mut other = bytes.clone();
    other[8] = 77;
    assert_eq!(
        Model::from_bytes(&other).err(),
        Some(ModelError::Version {
            found: 77,
            known: 1
        })
    );
    for at in (10..bytes.len()).step_by(7) {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(Model::from_bytes(&other).err(), Some(ModelError::Checksum));
        assert!(Model::from_bytes(&bytes[..at]).is_err());
    }
}

/// With the checksum made right again, what is inside is checked by itself.
fn reseal(mut body: Vec<u8>) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let sum = Sha256::digest(&body);
    body.extend(sum);
    body
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_models_do_not_panic(kind in 0usize..8, at in 10usize..60_000, byte: u8, cut in 0usize..3) {
        thread_local! {
            static MODELS: Vec<Vec<u8>> = Kind::ALL
                .iter()
                .map(|k| model(*k, Scaling::ZScore, 3).to_bytes())
                .collect();
        }
        let mut body = MODELS.with(|m| m[kind].clone());
        body.truncate(body.len() - 32);
        let at = 10 + (at - 10) % (body.len() - 10);
        body[at] = byte;
        if cut == 0 {
            body.truncate(at + 1);
        }
        if let Ok(model) = Model::from_bytes(&reseal(body)) {
            let rows = vec![1.0; model.names().len() * 2];
            let view = MatRef::new(model.names().len(), &rows).unwrap();
            let scores = model.score(view).unwrap();
            prop_assert!(scores.iter().all(|s| !s.is_nan()));
            model.explain(&rows[..model.names().len()], 2).unwrap();
        }
    }

    #[test]
    fn areas_do_not_depend_on_the_scale(scores in prop::collection::vec(-50i32..50, 2..60), bits: u64) {
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let labels: Vec<bool> = (0..scores.len()).map(|i| bits >> i & 1 == 1).collect();
        let moved: Vec<f64> = scores.iter().map(|s| (s / 20.0).exp()).collect();
        let negated: Vec<f64> = scores.iter().map(|s| -s).collect();
        prop_assert_eq!(roc_auc(&scores, &labels), roc_auc(&moved, &labels));
        if let (Some(a), Some(b)) = (roc_auc(&scores, &labels), roc_auc(&negated, &labels)) {
            prop_assert!((a + b - 1.0).abs() < 1e-12);
        }
    }
}
