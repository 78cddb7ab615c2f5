//! How strange records are to a model: the negative logarithm of their likelihood.

use crate::SynthError;
use crate::address::pseudonym;
use crate::encode::*;
use crate::marginal;
use crate::model::{Model, TableMethod};
use crate::rules;
use crate::state::State;
use crate::table::{Record, Table};

/// What a record's surprise is made of, as [`Scores::parts`] holds it.
const PARTS: [(&str, &[usize]); 6] = [
    ("label", &[LABEL]),
    ("source", &[SRC]),
    ("destination", &[DST]),
    ("service", &[SERVICE, SAME, SRC_RANGE, DST_RANGE]),
    ("volume", &[PACKETS, SIZE]),
    ("duration", &[DURATION]),
];

/// Scores of records.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// −ln of the likelihood of each record given the ones before it, nats, in the order of the table; higher is stranger.
    pub nats: Vec<f64>,
    /// The part that was strangest of each record: label, source, destination, service, volume or duration.
    pub strangest: Vec<&'static str>,
}

/// Scores each record of a table, in order of time, by a model of [`crate::fit`]; `seed` is that of the fit, by which addresses
/// become the model's. When a record comes is not scored, and labels
/// only when the table has the model's. Likelihoods of the model's bins are compared, so scores of different models are not
/// comparable.
///
/// A value that the model has never seen in any context has the likelihood that the model gives to new values; where it
/// gives none, 10⁻⁹.
///
/// # Errors
/// [`SynthError::Empty`]; [`SynthError::Option`] for a private model, whose hosts are not known one by one.
pub fn score(model: &Model, table: &Table, seed: u64) -> Result<Scores, SynthError> {
    if table.records.is_empty() {
        return Err(SynthError::Empty);
    }
    if model.info.privacy.is_some() {
        return Err(SynthError::Option {
            name: "model",
            why: "it is private: hosts are not known one by one, so records have no likelihood; fit one without epsilon"
                .to_owned(),
        });
    }
    let e = &model.encoder;
    let index = e.index();
    let labelled = table.label_column.is_some() && e.label_column.is_some();
    let mut order: Vec<usize> = (0..table.records.len()).collect();
    order.sort_by_key(|i| table.records[*i].start_us);
    let mut state = State::default();
    let mut contexts = Vec::new();
    let mut scores = Scores {
        nats: vec![0.0; order.len()],
        strangest: vec![PARTS[0].0; order.len()],
    };
    for at in order {
        let mut r = table.records[at];
        if model.info.fresh_addresses {
            r.src = pseudonym(seed, r.src);
            r.dst = pseudonym(seed, r.dst);
        }
        rules::settle(&mut r, e.odd_ports);
        r.label = label(model, table, &r);
        let ports = (r.src_port, r.dst_port);
        let mut s = e.symbols(&index, &r);
        let mut nats = [0.0; FIELDS];
        let fields: Vec<usize> = match model.method {
            TableMethod::Sequence => (0..FIELDS)
                .filter(|f| !matches!(*f, TIME | PROTOCOL))
                .collect(),
            TableMethod::Marginal => marginal::ORDER.into_iter().filter(|f| *f != TIME).collect(),
        };
        let mut same = false;
        for field in fields {
            if field == LABEL && !labelled {
                continue;
            }
            if model.method == TableMethod::Sequence {
                if field == SAME {
                    let Some(last) = state.pair(s[SRC], s[DST]) else {
                        continue;
                    };
                    s[SAME] = last.repeats(s[SRC], ports);
                    same = s[SAME] == 1;
                }
                state.contexts(e, field, &s, &mut contexts);
            } else {
                marginal::contexts(&model.parents, field, &s, &mut contexts);
            }
            // Ports of the pair's last record follow from it; a port that is known by number has no range.
            let known = |port: u16| e.ports.binary_search(&port).is_ok();
            if matches!(field, SRC_RANGE if same || known(r.src_port))
                || matches!(field, DST_RANGE if same || known(r.dst_port))
            {
                continue;
            }
            let chain = model.chains.get(field);
            let p = chain.map_or(1.0, |c| c.likelihood(&contexts, s[field]));
            nats[field] = -p.max(1e-9).ln();
        }
        scores.nats[at] = nats.iter().sum();
        let part = |fields: &[usize]| fields.iter().map(|f| nats[*f]).sum::<f64>();
        let most = PARTS.iter().max_by(|a, b| part(a.1).total_cmp(&part(b.1)));
        scores.strangest[at] = most.map_or("", |p| p.0);
        state.push(&s, ports);
    }
    Ok(scores)
}

/// The model's number of the record's label.
fn label(model: &Model, table: &Table, r: &Record) -> u32 {
    let text = table.labels.get(r.label as usize);
    let labels = &model.encoder.labels;
    labels.iter().position(|l| Some(l) == text).unwrap_or(0) as u32
}
