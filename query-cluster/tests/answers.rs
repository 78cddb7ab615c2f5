//! The cluster's answers are those of `query` in one process, noise and all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;
#[path = "../../query/examples/dpmon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "its questions are asked here, its main is not"
)]
mod dpmon;

use std::path::Path;
use std::sync::Arc;

use chaff_privacy::Percent;
use chaff_query::asn::Asns;
use chaff_query::request::{
    Clamp, Filter, Matching, Measure, Name, Request, Statistic, UnitKey, even_edges,
};
use chaff_query::source::Source;
use chaff_query::units::Units;
use chaff_query::{Databases, Direction, Engine, Plain};
use common::{Site, Worker, cluster, request, volume};

fn named(matching: Matching, ignore_case: bool) -> Filter {
    Filter {
        name: Some(Name {
            matching,
            ignore_case,
        }),
        ..Filter::default()
    }
}

fn questions() -> Vec<Request> {
    let sum = Statistic::Sum {
        bounds: Clamp::Public(0.0, 1e6),
    };
    let all = Filter::default;
    let bytes = || Measure::Bytes(Direction::Ingoing);
    let rtt = || Measure::Mean("c_rtt_avg".to_owned());
    let bounds = Clamp::Public(-10.0, 100.0);
    let mut asked = vec![
        volume(),
        request(all(), Measure::Bytes(Direction::Outgoing), sum.clone()),
        request(all(), Measure::Flows, sum.clone()),
        request(
            all(),
            bytes(),
            Statistic::Sum {
                bounds: Clamp::Paid,
            },
        ),
        request(
            all(),
            bytes(),
            Statistic::Histogram {
                edges: even_edges(0.0, 5e6, 8),
            },
        ),
        request(all(), rtt(), Statistic::Mean { bounds }),
        request(all(), rtt(), Statistic::Deviation { bounds }),
        request(
            all(),
            rtt(),
            Statistic::Histogram {
                edges: vec![-1.0, 20.0, 40.0],
            },
        ),
        request(
            all(),
            rtt(),
            Statistic::Percentile {
                percent: Percent::new(90.0).unwrap(),
                bounds,
                candidates: 200,
            },
        ),
        request(
            all(),
            Measure::Mean("c_bytes_all".to_owned()),
            Statistic::Mean {
                bounds: Clamp::Public(0.0, 1000.0),
            },
        ),
        Request {
            delta: Some(1e-6),
            ..request(
                all(),
                Measure::Names,
                Statistic::Top {
                    per_unit: 2,
                    limit: 20,
                },
            )
        },
    ];
    for ip in ["198.18.1.1", "2001:db8:ff::2", "198.18.99.99"] {
        let filter = Filter {
            ip: Some(ip.parse().unwrap()),
            ..all()
        };
        asked.push(request(filter, bytes(), sum.clone()));
    }
    for asn in [64_512, 64_513, 7] {
        let filter = Filter {
            asn: Some(asn),
            ..all()
        };
        asked.push(request(filter.clone(), bytes(), sum.clone()));
        asked.push(request(filter, Measure::Any, Statistic::Count));
    }
    let domain = |t: &str| Matching::Domain(t.to_owned());
    let below = |t: &str| Matching::Subdomains(t.to_owned());
    let pattern = |t: &str| Matching::Pattern(t.to_owned());
    for filter in [
        named(domain("video.example"), false),
        named(domain("Video.EXAMPLE"), true),
        named(domain("o'neil.example"), false),
        named(domain("no such name"), false),
        named(below("video.example"), true),
        named(pattern("%"), false),
        named(pattern("%VIDEO%"), false),
        named(pattern("%video%"), true),
        named(pattern("a_b.example"), false),
        named(pattern(r"a\_b.example"), false),
        named(pattern(r"100\%%"), false),
        named(pattern("b_cher.ex%"), false),
        named(pattern("BÜCHER%"), true),
    ] {
        asked.push(request(filter.clone(), bytes(), sum.clone()));
        asked.push(request(filter, Measure::Any, Statistic::Count));
    }
    let listed = asked[0].clone();
    asked.extend([UnitKey::Network, UnitKey::Listed].map(|unit| Request {
        unit,
        ..listed.clone()
    }));
    asked.push(Request {
        direction: Direction::Ingoing,
        ..listed.clone()
    });
    asked.push(Request {
        home: vec![
            "10.0.0.0/27".parse().unwrap(),
            "2001:db8:0:1::/64".parse().unwrap(),
        ],
        filter: named(pattern("%example"), false),
        ..listed
    });
    asked
}

/// Asks both engines, in ledgers of their own, with noise from the same seed.
fn agree(
    site: &Site,
    clustered: &dyn Engine,
    source: &Source,
    request: &Request,
    databases: &Databases,
) {
    let what = serde_json::to_string(request).unwrap();
    let exact = Plain::default().table(source, request, databases).unwrap();
    let Ok(ours) = clustered.table(source, request, databases) else {
        panic!("{what}: {:?}", clustered.last_failure());
    };
    assert_eq!(ours, exact, "{what}");
    let ask = |engine: &dyn Engine, ledger| {
        site.ask(engine, source, request, databases, ledger)
            .unwrap()
    };
    let (one, two) = (ask(&Plain::default(), "one"), ask(clustered, "two"));
    assert!(!one.engine_failed && !two.engine_failed, "{what}");
    assert!(one.answer.simulated, "{what}");
    assert_eq!(one.answer, two.answer, "{what}");
}

#[test]
fn every_kind_of_question_has_the_same_answer() {
    let site = Site::with_flows(8000);
    let asns = "198.18.0.0/15\t64512\n198.18.2.0/24\t64513\n2001:db8:ff::/64\t64513\n";
    let asns = site.write("rib.dat", asns);
    let units = site.write(
        "units.csv",
        "10.0.0.1,anna\n10.0.0.2,anna\n2001:db8:0:1::33,anna\n",
    );
    let databases = Databases {
        asns: Some(Arc::new(Asns::load(&asns).unwrap())),
        units: Some(Arc::new(Units::load(&units).unwrap())),
    };
    let workers = Worker::pair(&site.parquet());
    let clustered = cluster(&[&workers[0].url, &workers[1].url]);
    let source = site.source();
    for request in &questions() {
        agree(&site, &clustered, &source, request, &databases);
    }
}

#[test]
fn text_and_parquet_have_the_same_table() {
    let site = Site::with_flows(2000);
    let workers = Worker::pair(&site.parquet());
    let clustered = cluster(&[&workers[0].url, &workers[1].url]);
    let text = Source::open(&[site.path("logs")], None).unwrap();
    for request in questions()
        .iter()
        .filter(|r| r.filter.asn.is_none() && r.unit != UnitKey::Listed)
    {
        let none = Databases::default();
        let want = Plain::default().table(&text, request, &none).unwrap();
        let got = clustered.table(&site.source(), request, &none).unwrap();
        assert_eq!(got, want, "{}", serde_json::to_string(request).unwrap());
    }
}

/// Every so many of the shared questions.
const SAMPLE: usize = 5;

#[test]
fn the_shared_questions_have_the_same_answers() {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/conformance/dpmon"
    ));
    if !folder.exists() {
        println!("skipped: no {}", folder.display());
        return;
    }
    let site = Site::new();
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let databases = Databases {
        asns: Some(Arc::new(Asns::load(&folder.join("rib.dat")).unwrap())),
        units: None,
    };
    let sources =
        [("tstat", "log_tcp_complete"), ("nfdump", "nfdump.csv")].map(|(format, file)| {
            let parquet = site.import(&[folder.join(file)], &format!("all/{format}"));
            (format, Source::open(&[parquet], None).unwrap())
        });
    let workers = Worker::pair(&site.path("all"));
    let clustered = cluster(&[&workers[0].url, &workers[1].url]);
    let mut asked = 0;
    let queries = expected["queries"].as_array().unwrap();
    for query in queries.iter().step_by(SAMPLE) {
        let format = query["format"].as_str().unwrap();
        let source = &sources.iter().find(|(f, _)| *f == format).unwrap().1;
        let method = query["method"].as_str().unwrap();
        for (request, _) in dpmon::requests(query, method).unwrap() {
            agree(&site, &clustered, source, &request, &databases);
            asked += 1;
        }
    }
    println!("{asked} of the shared questions");
    assert!(asked > 50, "{asked}");
}
