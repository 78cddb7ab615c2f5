//! What is known of a flow when each of its packets is seen, beyond the sums that the kernel's meter keeps too.
//!
//! [`Statistics`] is made by a [`crate::Table`] with [`crate::TableConfig::statistics`]. Its building blocks stand alone:
//! [`Moments`], [`Sketch`] and [`Periods`] merge, and the merge of parts equals the whole.

mod moments;
mod periods;
mod sketch;
mod tcp;

use chaff_abi::{Counters, Nanos};

use crate::{Fragment, Packet};
pub use moments::Moments;
pub(crate) use moments::sample_stddev;
pub use periods::Periods;
pub use sketch::{MAX_BINS, Sketch};
pub use tcp::{Tcp, TcpSide};

/// Packets whose payload sizes are kept in [`Statistics::payloads`].
pub const PAYLOADS: usize = 8;

/// Statistics of one flow, or one part of a flow that was cut.
///
/// About 1 KiB, 0.4 KiB more for TCP, and for each of its five sketches 8 bytes a distinct bin, at most 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Forward, backward.
    pub sides: [Side; 2],
    /// Times between packets of either direction, ns.
    pub gaps: Moments,
    /// Their quantiles.
    pub gap_quantiles: Sketch,
    /// Activity of both directions.
    pub periods: Periods,
    /// Facts of the TCP headers.
    pub tcp: Option<Box<Tcp>>,
    /// Packets that are fragments.
    pub fragments: u64,
    /// ICMP type and code of the first packet.
    pub icmp: Option<(u8, u8)>,
    /// The first payloads, bytes: those of the initiator positive, those of the responder negative.
    payloads: [i32; PAYLOADS],
    payload_count: u8,
    span: Span,
    threshold: Nanos,
}

/// Statistics of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Frame lengths, bytes.
    pub wire: Moments,
    /// What follows the IP headers, bytes.
    pub transport: Moments,
    /// Transport payloads, bytes.
    pub payload: Moments,
    /// Quantiles of IP lengths, bytes.
    pub sizes: Sketch,
    /// Quantiles of times between packets, ns.
    pub gaps: Sketch,
    /// Smallest and largest time to live or hop limit; `None` without a packet.
    pub ttl: Option<(u8, u8)>,
    /// Which DSCP values (RFC 2474) occurred, by bit.
    pub dscp: u64,
    /// Packets that were marked "congestion experienced" (RFC 3168).
    pub congestion_marks: u64,
    /// Size of the first payload, bytes; `None` without one.
    pub first_payload: Option<u32>,
    span: Span,
}

/// First and last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span(Option<(Nanos, Nanos)>);

impl Span {
    /// Moves the end; gives the time since the last one.
    fn extend(&mut self, at: Nanos) -> Option<Nanos> {
        match &mut self.0 {
            Some((_, last)) => {
                let gap = at.since(*last);
                *last = (*last).max(at);
                Some(gap)
            }
            None => {
                self.0 = Some((at, at));
                None
            }
        }
    }

    /// Appends a later span; gives the time between the two.
    fn append(&mut self, later: Self) -> Option<Nanos> {
        let (first, last) = later.0?;
        let gap = self.extend(first);
        self.extend(last);
        gap
    }
}

impl Statistics {
    /// No packet yet. A time between packets above `threshold` is a silence for [`Statistics::periods`].
    pub fn new(threshold: Nanos) -> Self {
        Self {
            sides: Default::default(),
            gaps: Moments::default(),
            gap_quantiles: Sketch::default(),
            periods: Periods::default(),
            tcp: None,
            fragments: 0,
            icmp: None,
            payloads: [0; PAYLOADS],
            payload_count: 0,
            span: Span::default(),
            threshold,
        }
    }

    /// Those of the next part of the same flow: empty but for what is needed to recognise repeated segments.
    #[must_use]
    pub(crate) fn next_part(&self) -> Self {
        let tcp = self.tcp.clone().map(|mut tcp| {
            tcp.begin_part();
            tcp
        });
        Self {
            tcp,
            ..Self::new(self.threshold)
        }
    }

    /// Adds a packet of one side: 0 forward, 1 backward. A time before the newest one adds a gap
    /// of 0. Segments of a super-packet count as packets
    /// of equal size that came together.
    pub fn add(&mut self, at: Nanos, side: usize, packet: &Packet<'_>) {
        let sample = &packet.sample;
        let (segments, n) = (sample.packets(), u32::from(sample.segments.max(1)));
        if let Some(gap) = self.span.extend(at) {
            self.gaps.add(gap.0);
            self.gap_quantiles.add(gap.0);
        }
        self.gaps.add_many(0, segments - 1);
        self.gap_quantiles.add_many(0, segments - 1);
        self.periods.add(at, self.threshold);
        self.fragments += u64::from(packet.fragment != Fragment::None);
        if self.icmp.is_none() {
            self.icmp = packet.icmp;
        }
        if let Some(facts) = &packet.tcp {
            self.tcp
                .get_or_insert_default()
                .add(at, side, sample.tcp_flags, sample.payload, facts);
        }
        if sample.payload > 0
            && let Some(place) = self.payloads.get_mut(usize::from(self.payload_count))
        {
            let size = i32::try_from(sample.payload / n).unwrap_or(i32::MAX);
            *place = if side == 0 { size } else { -size };
            self.payload_count += 1;
        }
        let Some(own) = self.sides.get_mut(side) else {
            return;
        };
        if let Some(gap) = own.span.extend(at) {
            own.gaps.add(gap.0);
        }
        own.gaps.add_many(0, segments - 1);
        own.wire.add_many((sample.wire / n).into(), segments);
        let transport = packet.transport_len() / n;
        own.transport.add_many(transport.into(), segments);
        own.payload.add_many((sample.payload / n).into(), segments);
        own.sizes.add_many((sample.bytes / n).into(), segments);
        let (min, max) = own.ttl.unwrap_or((packet.ttl, packet.ttl));
        own.ttl = Some((min.min(packet.ttl), max.max(packet.ttl)));
        own.dscp |= 1 << (packet.traffic_class >> 2);
        own.congestion_marks += if packet.traffic_class & 3 == 3 {
            segments
        } else {
            0
        };
        if sample.payload > 0 && own.first_payload.is_none() {
            own.first_payload = Some(sample.payload / n);
        }
    }

    /// Appends those of a later part of the same flow with the same threshold. All but the TCP facts equal those of a flow
    /// that was never cut; of the TCP facts the counts add up, and a segment that repeats one of the earlier part is not
    /// recognised unless [`Statistics::add`] counted both.
    pub fn merge(&mut self, later: &Self) {
        if let Some(gap) = self.span.append(later.span) {
            self.gaps.add(gap.0);
            self.gap_quantiles.add(gap.0);
        }
        self.gaps.merge(&later.gaps);
        self.gap_quantiles.merge(&later.gap_quantiles);
        self.periods.merge(&later.periods, self.threshold);
        self.fragments += later.fragments;
        self.icmp = self.icmp.or(later.icmp);
        match (&mut self.tcp, &later.tcp) {
            (Some(own), Some(later)) => own.merge(later),
            (own, later) => *own = own.take().or_else(|| later.clone()),
        }
        for size in later.payloads() {
            if let Some(place) = self.payloads.get_mut(usize::from(self.payload_count)) {
                *place = *size;
                self.payload_count += 1;
            }
        }
        for (own, later) in self.sides.iter_mut().zip(&later.sides) {
            own.merge(later);
        }
    }

    /// Payload sizes of the first packets with payload, at most [`PAYLOADS`], bytes: those of the initiator positive, those
    /// of the responder negative.
    pub fn payloads(&self) -> &[i32] {
        let count = usize::from(self.payload_count);
        self.payloads.get(..count).unwrap_or(&self.payloads)
    }
}

impl Side {
    fn merge(&mut self, later: &Self) {
        if let Some(gap) = self.span.append(later.span) {
            self.gaps.add(gap.0);
        }
        self.wire.merge(&later.wire);
        self.transport.merge(&later.transport);
        self.payload.merge(&later.payload);
        self.sizes.merge(&later.sizes);
        self.gaps.merge(&later.gaps);
        self.ttl = match (self.ttl, later.ttl) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.dscp |= later.dscp;
        self.congestion_marks += later.congestion_marks;
        self.first_payload = self.first_payload.or(later.first_payload);
    }
}

impl From<&Counters> for Moments {
    /// IP lengths.
    fn from(c: &Counters) -> Self {
        Self::of(
            c.packets,
            c.bytes,
            c.bytes_sq.into(),
            c.bytes_min.into(),
            c.bytes_max.into(),
        )
    }
}

/// One of the first packets of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpltEntry {
    /// Time since the flow's packet before, ns; 0 for the first one.
    pub gap: Nanos,
    /// Frame length, bytes.
    pub wire: u32,
    /// IP length, bytes.
    pub bytes: u32,
    /// Transport payload, bytes.
    pub payload: u32,
    /// Whether the responder sent it.
    pub backward: bool,
    /// TCP flags.
    pub tcp_flags: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_take_the_memory_that_is_documented() {
        assert_eq!((size_of::<Statistics>(), size_of::<Tcp>()), (976, 368));
        assert_eq!(size_of::<SpltEntry>(), 24);
    }
}
