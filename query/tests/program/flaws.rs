//! One test for each way in which DPMon tells more than it says (numbers as in the list of its flaws).

use std::collections::BTreeSet;

use crate::common::{Flow, Site, tstat};

/// A cost at which noise of scale 1 is gone: tests of what an answer is made of.
const SURE: &str = "50";

fn users(n: u32) -> Vec<String> {
    (1..=n)
        .map(|u| format!("10.0.{}.{}", u / 250, u % 250))
        .collect()
}

#[test]
fn flaw_1_bounds_come_from_the_request_and_never_from_the_data() {
    let rich = Flow {
        down: 9_000_000_000,
        ..Flow::default()
    };
    let site = Site::new(&tstat(&[rich]), "1000");
    let error = site.refused(&["volume-on-domain", "--domain", "x", "--epsilon", "1"]);
    assert!(error.contains("--bounds"), "{error}");
    let error = site.refused(&["volume-histogram", "--epsilon", "1"]);
    assert!(error.contains("--range"), "{error}");
    let error = site.refused(&[
        "flow-feature",
        "--feature",
        "c_rtt_avg",
        "--metric",
        "mean",
        "--epsilon",
        "1",
    ]);
    assert!(error.contains("--bounds"), "{error}");
    assert_eq!(site.spent(), 0.0);
    let question = [
        "volume-on-domain",
        "--domain",
        "video.example",
        "--bounds",
        "0..1000",
        "--epsilon",
        SURE,
    ];
    let answer = site.ask(&question);
    assert_eq!(answer["clamp"], serde_json::json!([0.0, 1000.0]));
    assert!((answer["scale"].as_f64().unwrap() - 20.0).abs() < 1e-9);
    // The user of 9 GB counts as 1,000; noise beyond 700 has a probability of 1e-15.
    assert!(
        (answer["value"].as_i64().unwrap() - 1000).abs() < 700,
        "{answer}"
    );
    // Edges are those asked for.
    let answer = site.ask(&[
        "volume-histogram",
        "--range",
        "0..40",
        "--bins",
        "4",
        "--epsilon",
        "1",
    ]);
    assert_eq!(
        answer["request"]["statistic"]["histogram"]["edges"],
        serde_json::json!([0.0, 10.0, 20.0, 30.0, 40.0])
    );
}

#[test]
fn flaw_1_bounds_that_are_paid_for_hide_a_single_user() {
    let names = users(500);
    let mut flows: Vec<Flow<'_>> = names
        .iter()
        .map(|u| Flow {
            user: u,
            down: 700,
            ..Flow::default()
        })
        .collect();
    flows.push(Flow {
        user: "10.9.9.9",
        down: 9_000_000_000,
        ..Flow::default()
    });
    let site = Site::new(&tstat(&flows), "1000");
    // One bound in about sixteen is that of noise, or the one user's by noise; of 15 the most are sure to be right.
    let mut right = 0;
    for i in 0..15 {
        // Another cost is another question: not the kept answer.
        let epsilon = format!("5.{i:02}");
        let answer = site.ask(&[
            "volume-on-domain",
            "--domain",
            "video.example",
            "--bounds",
            "paid",
            "--epsilon",
            &epsilon,
        ]);
        // 2^10 is at the 500, 2^34 at the one.
        if answer["clamp"] == serde_json::json!([0.0, 1024.0]) {
            right += 1;
            let value = answer["value"].as_f64().unwrap();
            assert!((value - 351_024.0).abs() < 20_000.0, "{answer}");
        }
    }
    assert!(right >= 8, "{right} of 15 bounds at the 500");
    // All of what is asked for is charged, bounds included.
    assert!((site.spent() - 76.05).abs() < 1e-9, "{}", site.spent());
}

#[test]
fn flaw_2_there_is_noise_when_nobody_matches() {
    let site = Site::new(&tstat(&[Flow::default()]), "1000");
    let mut seen = BTreeSet::new();
    for i in 0..12 {
        // Another cost is another question: not the kept answer.
        let epsilon = format!("0.5{i:02}");
        let answer = site.ask(&[
            "volume-on-domain",
            "--domain",
            "nobody.example",
            "--bounds",
            "0..1000000",
            "--epsilon",
            &epsilon,
        ]);
        seen.insert(answer["value"].as_i64().unwrap());
    }
    assert_eq!(seen.len(), 12);
}

#[test]
fn flaw_3_the_mean_of_one_visitor_is_hidden() {
    let names = users(292);
    let mut flows: Vec<Flow<'_>> = names
        .iter()
        .map(|u| Flow {
            user: u,
            ..Flow::default()
        })
        .collect();
    flows.push(Flow {
        name: "only-one.example",
        rtt: 22.564_095,
        ..Flow::default()
    });
    let site = Site::new(&tstat(&flows), "1000");
    let mut means = Vec::new();
    for i in 0..10 {
        let epsilon = format!("0.1{i:02}");
        let answer = site.ask(&[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "mean",
            "--domain",
            "only-one.example",
            "--bounds",
            "0..100",
            "--epsilon",
            &epsilon,
        ]);
        means.push(answer["value"]["mean"].as_f64().unwrap());
        let interval = answer["interval"].as_array().unwrap();
        assert!(interval[0].as_f64() <= interval[1].as_f64());
        // Nothing is known with so few: the interval is the bounds.
        if answer["value"]["count"].as_i64().unwrap() < 20 {
            assert_eq!(
                (interval[0].as_f64(), interval[1].as_f64()),
                (Some(0.0), Some(100.0))
            );
        }
    }
    let near = means
        .iter()
        .filter(|m| (*m - 22.564_095).abs() < 1.0)
        .count();
    assert!(near <= 5, "{means:?}");
    let spread = means.iter().fold(f64::MIN, |a, b| a.max(*b))
        - means.iter().fold(f64::MAX, |a, b| a.min(*b));
    assert!(spread > 20.0, "{means:?}");
}

#[test]
fn flaw_4_what_is_asked_is_never_code() {
    let names = users(20);
    let flows: Vec<Flow<'_>> = names
        .iter()
        .map(|u| Flow {
            user: u,
            down: 1_000_000,
            ..Flow::default()
        })
        .collect();
    let site = Site::new(&tstat(&flows), "1000");
    for text in [
        "' OR '1'='1",
        "x' THEN 0 ELSE (SELECT SUM(s_bytes_all) FROM flows WHERE c_ip='10.0.0.1') END) --",
        "\"; DROP TABLE flows; --",
        "\\",
        "%",
        "o'brien.example",
    ] {
        let answer = site.ask(&[
            "volume-on-domain",
            "--domain",
            text,
            "--bounds",
            "0..1",
            "--epsilon",
            SURE,
        ]);
        assert!(
            answer["value"].as_i64().unwrap().abs() < 10,
            "{text}: {answer}"
        );
        assert_eq!(answer["request"]["filter"]["name"]["domain"], text);
    }
    assert!(
        site.refused(&[
            "volume-on-ip",
            "--ip",
            "10.0.0.1' OR 1=1",
            "--bounds",
            "0..1",
            "--epsilon",
            "1"
        ])
        .contains("--ip")
    );
}

#[test]
fn flaw_5_no_answer_fails_because_of_the_data() {
    let questions: [&[&str]; 6] = [
        &[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "percentile",
            "--percent",
            "25",
            "--bounds",
            "0..100",
        ],
        &[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "histogram",
            "--range",
            "0..100",
            "--bins",
            "5",
        ],
        &[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "std",
            "--bounds",
            "0..100",
        ],
        &[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "mean",
            "--bounds",
            "0..100",
        ],
        &["user-count"],
        &["volume-histogram", "--range", "0..100"],
    ];
    let broken = format!(
        "{}10.0.0.1 short\n10.0.0.1 198.18.0.1 1 0 x y \"q nan\n\u{0}\n",
        tstat(&[])
    );
    for log in [
        tstat(&[]),
        broken,
        tstat(&[Flow {
            rtt: f64::NAN,
            ..Flow::default()
        }]),
    ] {
        let site = Site::new(&log, "1000");
        for question in questions {
            let mut all = question.to_vec();
            all.extend(["--domain", "nobody.example", "--epsilon", "1"]);
            let before = site.spent();
            let answer = site.ask(&all);
            assert!(!answer["value"].is_null());
            assert!(
                (site.spent() - before - 1.0).abs() < 1e-9,
                "paid, whatever the data are"
            );
        }
        // A population that is empty.
        let answer = site.ask(&[
            "volume-on-ip",
            "--ip",
            "198.18.0.1",
            "--direction",
            "ingoing",
            "--bounds",
            "0..10",
            "--epsilon",
            "1",
        ]);
        assert!(answer["value"].is_i64());
    }
}

#[test]
fn flaw_6_the_budget_outlives_the_process() {
    let site = Site::new(&tstat(&[Flow::default()]), "1");
    for i in 0..2 {
        let ip = format!("198.18.0.{i}");
        site.ask(&[
            "volume-on-ip",
            "--ip",
            &ip,
            "--bounds",
            "0..10",
            "--epsilon",
            "0.4",
        ]);
    }
    let error = site.refused(&[
        "volume-on-ip",
        "--ip",
        "198.18.0.9",
        "--bounds",
        "0..10",
        "--epsilon",
        "0.4",
    ]);
    assert!(
        error.contains("asked for epsilon 0.4, left 0.2 of 1"),
        "{error}"
    );
    // Neither a second name of the log nor a new copy of it is new budget.
    std::fs::copy(site.path("log"), site.path("copy")).unwrap();
    let output = site.query(&[
        "user-count",
        "--data",
        "copy",
        "--ledger",
        "LEDGER",
        "--epsilon",
        "0.4",
    ]);
    assert_eq!(output.status.code(), Some(2));
    // Bounds that are paid for are refused as a whole.
    assert_eq!(site.spent(), 0.8);
    site.refused(&[
        "volume-on-ip",
        "--ip",
        "198.18.0.9",
        "--bounds",
        "paid",
        "--epsilon",
        "0.4",
    ]);
    assert_eq!(site.spent(), 0.8);
    // Without its second place the ledger is refused.
    std::fs::remove_file(site.path("ledger.head")).unwrap();
    assert!(
        site.refused(&["user-count", "--epsilon", "0.1"])
            .contains("ledger.head")
    );
}

#[test]
fn flaw_7_answers_lie_on_a_public_grid() {
    let names = users(7);
    let flows: Vec<Flow<'_>> = names
        .iter()
        .map(|u| Flow {
            user: u,
            rtt: 1.0 / 3.0,
            ..Flow::default()
        })
        .collect();
    let site = Site::new(&tstat(&flows), "1000");
    for i in 0..6 {
        let epsilon = format!("1.{i}");
        let answer = site.ask(&[
            "flow-feature",
            "--feature",
            "c_rtt_avg",
            "--metric",
            "mean",
            "--bounds",
            "0..100",
            "--epsilon",
            &epsilon,
        ]);
        // The width of the bounds, 128 when rounded up to a power of two, has 2^20 steps.
        let steps = answer["value"]["centred_sum"].as_f64().unwrap() * f64::from(1 << 13);
        assert_eq!(steps.fract(), 0.0);
        assert!(answer["value"]["count"].is_i64());
    }
    let answer = site.ask(&[
        "volume-on-domain",
        "--domain",
        "video.example",
        "--bounds",
        "0..10",
        "--epsilon",
        "1",
    ]);
    assert!(answer["value"].is_i64());
}

#[test]
fn flaw_8_a_user_can_add_its_whole_upper_bound() {
    let site = Site::new(&tstat(&[Flow::default()]), "1000");
    let scale = |bounds| {
        let answer = site.ask(&[
            "volume-on-domain",
            "--domain",
            "video.example",
            "--bounds",
            bounds,
            "--epsilon",
            "2",
        ]);
        answer["scale"].as_f64().unwrap()
    };
    assert!((scale("60..100") - 50.0).abs() < 1e-9);
    assert!((scale("-100..60") - 50.0).abs() < 1e-9);
}

#[test]
fn flaw_9_what_is_protected_is_chosen_and_stated() {
    let flows = [
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "10.0.0.1",
        "10.0.0.2",
    ]
    .map(|user| Flow {
        user,
        ..Flow::default()
    });
    let site = Site::new(&tstat(&flows), "1000");
    std::fs::write(site.path("units"), "2001:db8:0::1,anna\n10.0.0.1,anna\n").unwrap();
    let count = |unit: &[&str]| {
        let mut all = vec!["user-count", "--epsilon", SURE];
        all.extend(unit);
        let answer = site.ask(&all);
        (
            answer["value"]["with"].as_i64().unwrap(),
            answer["protects"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(count(&[]).0, 5);
    let (n, protects) = count(&["--unit", "network"]);
    assert_eq!(n, 4);
    assert!(protects.contains("IPv6 /64"), "{protects}");
    assert_eq!(count(&["--unit", "listed", "--units", "units"]).0, 4);
    assert!(
        site.refused(&["user-count", "--unit", "listed", "--epsilon", "1"])
            .contains("--units")
    );
    assert!(
        site.refused(&["user-count", "--unit", "mac", "--epsilon", "1"])
            .contains("MAC")
    );
}

#[test]
fn flaw_10_small_counts_are_not_cut_at_zero() {
    let site = Site::new(&tstat(&[]), "1000");
    let values: Vec<i64> = (0..16)
        .map(|i| {
            let epsilon = format!("0.1{i:02}");
            let question = [
                "volume-on-domain",
                "--domain",
                "x",
                "--flows",
                "--bounds",
                "0..4",
                "--epsilon",
                &epsilon,
            ];
            site.ask(&question)["value"].as_i64().unwrap()
        })
        .collect();
    // Each has one sign with probability below 2^-15.
    assert!(
        values.iter().any(|v| *v < 0) && values.iter().any(|v| *v > 0),
        "{values:?}"
    );
}

#[test]
fn flaw_11_the_same_question_of_the_same_data_is_free() {
    let site = Site::new(&tstat(&[Flow::default()]), "2");
    let question = [
        "volume-on-domain",
        "--domain",
        "video.example",
        "--bounds",
        "0..1000",
        "--epsilon",
        "0.5",
    ];
    let first = site.ask(&question);
    let second = site.ask(&question);
    assert_eq!(
        (first["cached"].as_bool(), second["cached"].as_bool()),
        (Some(false), Some(true))
    );
    assert_eq!(first["value"], second["value"]);
    assert_eq!(site.spent(), 0.5);
    // Other data, another cost, other bounds: another question.
    site.write(&tstat(&[Flow::default(), Flow::default()]));
    assert_eq!(site.ask(&question)["cached"], false);
    assert_eq!(
        site.ask(&[
            "volume-on-domain",
            "--domain",
            "video.example",
            "--bounds",
            "0..999",
            "--epsilon",
            "0.5"
        ])["cached"],
        false
    );
    assert_eq!(site.spent(), 1.5);
}

#[test]
fn flaw_12_common_names_show_and_a_single_users_do_not() {
    let names = users(200);
    let mut flows: Vec<Flow<'_>> = names
        .iter()
        .map(|u| Flow {
            user: u,
            name: "common.example",
            ..Flow::default()
        })
        .collect();
    for _ in 0..500 {
        flows.push(Flow {
            name: "secret.example",
            ..Flow::default()
        });
    }
    flows.push(Flow {
        user: "10.7.7.7",
        name: "-",
        ..Flow::default()
    });
    let site = Site::new(&tstat(&flows), "1000");
    let answer = site.ask(&[
        "top-domains",
        "--epsilon",
        "1",
        "--delta",
        "1e-9",
        "--per-unit",
        "2",
    ]);
    let shown = answer["value"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "{answer}");
    assert_eq!(shown[0]["name"], "common.example");
    assert!((shown[0]["units"].as_i64().unwrap() - 200).abs() < 80);
    // Delta is paid as well.
    assert!(
        site.refused(&["top-domains", "--epsilon", "1", "--delta", "1e-6"])
            .contains("delta")
    );
    assert!(
        site.refused(&["top-domains", "--epsilon", "1"])
            .contains("--delta")
    );
}

#[test]
fn flaw_13_time_is_rounded_up_and_does_not_tell_of_the_data() {
    // Half a second and 10 ns a byte, or a multiple of it: never less.
    for log in [tstat(&[]), tstat(&[Flow::default(); 2_000])] {
        let site = Site::new(&log, "10");
        let started = std::time::Instant::now();
        let answered = site.query(&[
            "user-count",
            "--epsilon",
            "1",
            "--data",
            "LOG",
            "--ledger",
            "LEDGER",
        ]);
        assert!(answered.status.success());
        assert!(started.elapsed() >= std::time::Duration::from_millis(500));
    }
}

#[test]
fn flaw_14_wildcards_can_be_escaped() {
    let flows = [
        "iot_hub.example",
        "iotxhub.example",
        "100%25.example",
        "VIDEO.example",
        "a.b.example",
        "b.example",
        "ab.example",
    ]
    .map(|name| Flow {
        name,
        ..Flow::default()
    });
    let site = Site::new(&tstat(&flows), "100000");
    let count = |pattern: &str, more: &[&str]| {
        let mut all = vec![
            "volume-on-domain-pattern",
            "--pattern",
            pattern,
            "--flows",
            "--bounds",
            "0..10",
            "--epsilon",
            "500",
        ];
        all.extend(more);
        site.ask(&all)["value"].as_i64().unwrap()
    };
    assert_eq!(count("iot_hub.example", &[]), 2);
    assert_eq!(count(r"iot\_hub.example", &[]), 1);
    assert_eq!(count(r"100\%25.example", &[]), 1);
    assert_eq!(count("video%", &[]), 0);
    assert_eq!(count("video%", &["--ignore-case"]), 1);
    assert_eq!(count("%", &[]), 7);
    let below = site.ask(&[
        "volume-on-domain",
        "--domain",
        "b.example",
        "--subdomains",
        "--flows",
        "--bounds",
        "0..10",
        "--epsilon",
        "500",
    ]);
    assert_eq!(below["value"], 2);
}
