//! What the sequence engine remembers of the records before.

use std::collections::HashMap;

use crate::address::key;
use crate::encode::*;

/// The last record that two hosts exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) symbols: Symbols,
    pub(crate) ports: (u16, u16),
    /// The source of that record: where the new record's source is another, the direction is turned.
    pub(crate) from: u32,
}

impl Last {
    /// 1 when a record of `src` with these ports repeats the ports, turned round where the direction is.
    pub(crate) fn repeats(&self, src: u32, ports: (u16, u16)) -> u32 {
        u32::from(self.turned(src) == ports)
    }

    /// The ports for a record of `src`.
    pub(crate) fn turned(&self, src: u32) -> (u16, u16) {
        let (a, b) = self.ports;
        if self.from == src { (a, b) } else { (b, a) }
    }
}

/// Symbol that stands for "none before".
const NONE: u64 = u32::MAX as u64 + 1;

/// The last record of all, of each source, and of each pair of hosts.
#[derive(Default)]
pub(crate) struct State {
    last: Option<Symbols>,
    sources: HashMap<u32, Symbols>,
    pairs: HashMap<(u32, u32), Last>,
}

fn pair(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

impl State {
    pub(crate) fn pair(&self, src: u32, dst: u32) -> Option<&Last> {
        self.pairs.get(&pair(src, dst))
    }

    pub(crate) fn push(&mut self, symbols: &Symbols, ports: (u16, u16)) {
        let (src, dst) = (symbols[SRC], symbols[DST]);
        self.last = Some(*symbols);
        self.sources.insert(src, *symbols);
        self.pairs.insert(
            pair(src, dst),
            Last {
                symbols: *symbols,
                ports,
                from: src,
            },
        );
    }

    /// Keys of a field's contexts, longest first; how many there are depends on the field only.
    pub(crate) fn contexts(&self, e: &Encoder, field: usize, now: &Symbols, out: &mut Vec<u64>) {
        out.clear();
        let of = |s: Option<&Symbols>, f: usize| s.map_or(NONE, |s| u64::from(s[f]));
        let n = |f: usize| u64::from(now[f]);
        let all = self.last.as_ref();
        let source = if field > SRC {
            self.sources.get(&now[SRC])
        } else {
            None
        };
        let pair = if field > DST {
            self.pair(now[SRC], now[DST])
        } else {
            None
        };
        let before = pair.map(|p| &p.symbols);
        let turned = pair.map_or(NONE, |p| u64::from(p.from != now[SRC]));
        let kind = |f: usize| u64::from(e.host_kind(now[f]));
        let bins = e.time.len().max(1) as u64;
        let epoch = n(TIME) * 32 / bins;
        // Captures have no labels, and their flows are cut where the capture begins and ends.
        let era = if e.capture { n(TIME) * 8 / bins } else { 0 };
        let protocol = || {
            let service = e.services.get(now[SERVICE] as usize);
            service.map_or(0, |s| u64::from(s.0))
        };
        let mut add = |parts: &[u64]| out.push(key(parts));
        match field {
            LABEL => {
                add(&[of(all, LABEL), n(TIME)]);
                add(&[n(TIME)]);
                add(&[epoch]);
            }
            SRC => {
                add(&[
                    n(LABEL),
                    of(all, SRC),
                    of(all, DST),
                    of(all, SERVICE),
                    epoch,
                ]);
                add(&[n(LABEL), of(all, SRC), of(all, DST)]);
                add(&[n(LABEL), n(TIME)]);
                add(&[n(LABEL), epoch]);
                add(&[n(LABEL)]);
            }
            DST => {
                add(&[
                    n(LABEL),
                    n(SRC),
                    of(all, SRC),
                    of(all, DST),
                    of(all, SERVICE),
                ]);
                add(&[n(LABEL), n(SRC), of(source, DST), of(source, SERVICE)]);
                add(&[n(LABEL), n(SRC)]);
                add(&[n(SRC)]);
                add(&[kind(SRC)]);
            }
            SERVICE => {
                add(&[
                    n(SRC),
                    n(DST),
                    of(before, SERVICE),
                    turned,
                    of(source, SERVICE),
                ]);
                add(&[n(SRC), n(DST), of(before, SERVICE), turned]);
                add(&[n(SRC), n(DST)]);
                add(&[n(SRC)]);
                add(&[n(DST), kind(SRC)]);
                add(&[kind(SRC), kind(DST)]);
            }
            SAME => {
                add(&[n(SERVICE), of(before, SERVICE), turned, n(SRC)]);
                add(&[n(SERVICE), of(before, SERVICE), turned]);
                add(&[turned]);
            }
            SRC_RANGE => {
                add(&[n(SRC), n(SERVICE)]);
                add(&[n(SRC)]);
                add(&[n(SERVICE)]);
            }
            DST_RANGE => {
                add(&[n(DST), n(SERVICE)]);
                add(&[n(DST)]);
                add(&[n(SERVICE)]);
            }
            PACKETS => {
                add(&[n(SRC), n(DST), n(SERVICE), of(before, PACKETS), turned]);
                add(&[n(SRC), n(DST), n(SERVICE)]);
                add(&[n(DST), n(SERVICE)]);
                if e.capture {
                    add(&[n(SERVICE)]);
                    add(&[protocol(), era]);
                } else {
                    add(&[n(SERVICE), n(LABEL)]);
                    add(&[n(SERVICE)]);
                }
            }
            SIZE => {
                add(&[n(SRC), n(DST), n(SERVICE), n(PACKETS)]);
                add(&[n(SERVICE), n(PACKETS), n(LABEL), n(DST)]);
                add(&[n(SERVICE), n(PACKETS), n(LABEL)]);
                if e.capture {
                    add(&[protocol(), n(PACKETS)]);
                } else {
                    add(&[n(SERVICE), n(PACKETS)]);
                }
                add(&[n(SERVICE)]);
            }
            DURATION => {
                add(&[n(SERVICE), n(PACKETS), n(SIZE), n(SRC), n(DST)]);
                add(&[n(SERVICE), n(PACKETS), n(SIZE)]);
                add(&[n(SERVICE), n(PACKETS), n(LABEL), era]);
                if e.capture {
                    add(&[n(PACKETS), era]);
                } else {
                    add(&[n(SERVICE), n(PACKETS)]);
                }
                add(&[n(SERVICE)]);
            }
            _ => {
                add(&[n(SRC), n(SERVICE), n(DST)]);
                add(&[n(SRC), n(SERVICE)]);
                add(&[n(SRC), protocol()]);
                add(&[n(SERVICE)]);
                add(&[protocol()]);
            }
        }
        add(&[]);
    }
}

/// How many contexts [`State::contexts`] gives for a field.
pub(crate) fn levels(field: usize) -> usize {
    match field {
        TIME | PROTOCOL => 0,
        LABEL | SAME | SRC_RANGE | DST_RANGE => 4,
        SERVICE => 7,
        _ => 6,
    }
}
