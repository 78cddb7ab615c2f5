use chaff_abi::Nanos;

use crate::TcpFacts;

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;

/// Within this time of a gap in the sequence numbers a segment that fills it came out of order; later it is a
/// retransmission of one that was lost before the meter. When the round trip is known and longer, that counts.
const REORDERING: Nanos = Nanos::from_millis(3);

/// What the headers of one direction of a TCP connection say. Counts are of frames.
///
/// A segment with payload, SYN or FIN is judged by its sequence numbers against the highest one seen before, in the
/// arithmetic of RFC 1982: at or above it is new; below it is a retransmission, unless it fills a gap that has just
/// opened. One gap is remembered, the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSide {
    /// Segments whose sequence numbers were seen before, as a whole or in part.
    pub retransmissions: u64,
    /// Payload bytes of those segments.
    pub retransmitted_bytes: u64,
    /// Segments that came late and filled a gap.
    pub out_of_order: u64,
    /// Segments that left a gap before them: others were lost, came later, or were not captured.
    pub gaps: u64,
    /// Probes of an idle connection (RFC 9293, section 3.8.4): at most one byte, just below the next sequence number.
    pub keep_alives: u64,
    /// Acknowledgements that say again what the one before said, without payload and with the same window; neither probes
    /// of an idle connection nor the answers to them.
    pub duplicate_acks: u64,
    /// Packets that announce a window of 0, those with SYN or RST aside.
    pub zero_windows: u64,
    /// Smallest and largest announced window, bytes: scaled when both SYNs were seen and carry the option, otherwise as in
    /// the header. `None` without a packet; windows of SYN and RST do not count.
    pub window: Option<(u64, u64)>,
    /// Maximum segment size that its SYN announces, bytes.
    pub segment_size: Option<u16>,
    scale: Option<u8>,
    /// Next sequence number.
    next: Option<u32>,
    /// The newest gap: first number, the one after the last, and when it was seen.
    gap: Option<(u32, u32, Nanos)>,
    ack: Option<(u32, u16)>,
    /// Its newest packet was a probe, which the other side has not answered yet.
    probed: bool,
}

/// What the headers of a TCP connection say: forward, backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Initiator to responder, responder to initiator.
    pub sides: [TcpSide; 2],
    /// Time from a SYN to the answer to it, SYN and ACK; from the last SYN when it was repeated.
    pub syn_to_answer: Option<Nanos>,
    /// Time from that answer to its acknowledgement.
    pub answer_to_ack: Option<Nanos>,
    syn: [Option<Nanos>; 2],
    /// Which side answered, when, and the acknowledgement number that completes the handshake.
    answer: Option<(usize, Nanos, u32)>,
}

/// Whether `a` comes before `b`.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Tcp {
    /// A packet of one side (0 forward, 1 backward) with its payload length.
    pub(super) fn add(
        &mut self,
        at: Nanos,
        side: usize,
        flags: u16,
        payload: u32,
        facts: &TcpFacts,
    ) {
        self.handshake(at, side, flags, facts);
        let round_trip = self.syn_to_answer.unwrap_or_default().max(REORDERING);
        let [forward, backward] = &mut self.sides;
        let (own, other) = if side == 0 {
            (forward, backward)
        } else {
            (backward, forward)
        };
        let scale = match (own.scale, other.scale) {
            (Some(scale), Some(_)) => scale,
            _ => 0,
        };
        own.announce(flags, facts, scale);
        own.probed = own.is_probe(flags, payload, facts.sequence);
        let answers = std::mem::take(&mut other.probed) && payload == 0;
        own.acknowledge(flags, payload, facts, answers);
        own.sequence(at, flags, payload, facts.sequence, round_trip);
    }

    fn handshake(&mut self, at: Nanos, side: usize, flags: u16, facts: &TcpFacts) {
        if flags & SYN != 0 {
            if let Some(own) = self.sides.get_mut(side) {
                own.scale = facts.window_scale;
                own.segment_size = facts.segment_size.or(own.segment_size);
            }
            let other = self.syn.get(1 - (side & 1)).copied().flatten();
            match (flags & ACK != 0, other) {
                (false, _) => {
                    if let Some(own) = self.syn.get_mut(side) {
                        *own = Some(at);
                    }
                }
                (true, Some(syn)) if self.syn_to_answer.is_none() => {
                    self.syn_to_answer = Some(at.since(syn));
                    self.answer = Some((side, at, facts.sequence.wrapping_add(1)));
                }
                _ => (),
            }
        } else if flags & ACK != 0
            && let Some((answered, when, number)) = self.answer
            && self.answer_to_ack.is_none()
            && side != answered
            && !before(facts.acknowledgement, number)
        {
            self.answer_to_ack = Some(at.since(when));
        }
    }

    /// Adds the counts of a later part.
    pub(super) fn merge(&mut self, later: &Self) {
        for (own, later) in self.sides.iter_mut().zip(&later.sides) {
            own.retransmissions += later.retransmissions;
            own.retransmitted_bytes += later.retransmitted_bytes;
            own.out_of_order += later.out_of_order;
            own.gaps += later.gaps;
            own.keep_alives += later.keep_alives;
            own.duplicate_acks += later.duplicate_acks;
            own.zero_windows += later.zero_windows;
            own.window = match (own.window, later.window) {
                (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
                (a, b) => a.or(b),
            };
            own.segment_size = own.segment_size.or(later.segment_size);
            own.scale = later.scale.or(own.scale);
            own.next = later.next.or(own.next);
            own.gap = later.gap.or(own.gap);
            own.ack = later.ack.or(own.ack);
            own.probed = later.probed;
        }
        self.syn_to_answer = self.syn_to_answer.or(later.syn_to_answer);
        self.answer_to_ack = self.answer_to_ack.or(later.answer_to_ack);
    }

    /// Forgets what was counted, keeps what is needed to count on: for the next part of a flow that was cut.
    pub(super) fn begin_part(&mut self) {
        let kept = self.sides.map(|s| TcpSide {
            segment_size: s.segment_size,
            scale: s.scale,
            next: s.next,
            gap: s.gap,
            ack: s.ack,
            probed: s.probed,
            ..TcpSide::default()
        });
        self.sides = kept;
    }
}

impl TcpSide {
    fn announce(&mut self, flags: u16, facts: &TcpFacts, scale: u8) {
        if flags & (SYN | RST) != 0 {
            return;
        }
        let window = u64::from(facts.window) << scale;
        self.zero_windows += u64::from(window == 0);
        let (min, max) = self.window.unwrap_or((window, window));
        self.window = Some((min.min(window), max.max(window)));
    }

    fn is_probe(&self, flags: u16, payload: u32, start: u32) -> bool {
        payload <= 1
            && flags & (SYN | FIN | RST) == 0
            && self.next.is_some_and(|next| start == next.wrapping_sub(1))
    }

    /// `answers`: the packet before it was a probe of the other side.
    fn acknowledge(&mut self, flags: u16, payload: u32, facts: &TcpFacts, answers: bool) {
        if flags & ACK == 0 {
            return;
        }
        let said = (facts.acknowledgement, facts.window);
        let repeats = self.ack == Some(said) && payload == 0 && flags & (SYN | FIN | RST) == 0;
        if repeats && !self.probed && !answers {
            self.duplicate_acks += 1;
        }
        self.ack = Some(said);
    }

    fn sequence(&mut self, at: Nanos, flags: u16, payload: u32, start: u32, round_trip: Nanos) {
        // SYN and FIN take a number each.
        let taken = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = start.wrapping_add(taken);
        let Some(next) = self.next else {
            if flags & RST == 0 {
                self.next = Some(end);
            }
            return;
        };
        if self.probed {
            self.keep_alives += 1;
            return;
        }
        if taken == 0 || flags & RST != 0 {
            return;
        }
        if !before(start, next) {
            if start != next {
                self.gaps += 1;
                self.gap = Some((next, start, at));
            }
            self.next = Some(end);
            return;
        }
        match self.gap {
            Some((first, after, seen))
                if !before(start, first) && !before(after, end) && at.since(seen) <= round_trip =>
            {
                self.out_of_order += 1;
                // What is left of the gap; of two rests the later one.
                self.gap = if end != after {
                    Some((end, after, seen))
                } else if start != first {
                    Some((first, start, seen))
                } else {
                    None
                };
            }
            _ => {
                self.retransmissions += 1;
                self.retransmitted_bytes += u64::from(payload);
                if before(next, end) {
                    self.next = Some(end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(sequence: u32, acknowledgement: u32, window: u16) -> TcpFacts {
        TcpFacts {
            sequence,
            acknowledgement,
            window,
            ..TcpFacts::default()
        }
    }

    /// Time in ms, side, flags, payload, sequence number.
    fn run(packets: &[(u64, usize, u16, u32, u32)]) -> Tcp {
        let mut tcp = Tcp::default();
        for (i, (ms, side, flags, payload, sequence)) in packets.iter().enumerate() {
            let facts = facts(*sequence, i as u32, 1000);
            tcp.add(Nanos::from_millis(*ms), *side, *flags, *payload, &facts);
        }
        tcp
    }

    #[test]
    fn tells_new_repeated_late_and_missing_segments_apart() {
        let near_the_end = u32::MAX - 150;
        for base in [1000, near_the_end] {
            let at = |offset: u32| base.wrapping_add(offset);
            let tcp = run(&[
                (0, 0, ACK, 100, at(0)),
                (1, 0, ACK, 100, at(100)),
                // 200..300 is missing, comes 1 ms later; then it comes again.
                (2, 0, ACK, 100, at(300)),
                (3, 0, ACK, 100, at(200)),
                (4, 0, ACK, 100, at(200)),
                // 400..500 is missing and is filled too late for disorder.
                (5, 0, ACK, 100, at(500)),
                (50, 0, ACK, 100, at(400)),
                // Half old, half new.
                (60, 0, ACK, 100, at(550)),
                (61, 0, ACK, 50, at(650)),
                // Probes, with and without a byte; an acknowledgement alone.
                (99, 0, ACK, 0, at(699)),
                (99, 0, ACK, 1, at(699)),
                (99, 0, ACK, 0, at(700)),
                (99, 0, FIN | ACK, 0, at(700)),
                (99, 0, FIN | ACK, 0, at(700)),
            ]);
            let [s, other] = tcp.sides;
            assert_eq!((s.out_of_order, s.gaps, s.keep_alives), (1, 2, 2));
            assert_eq!((s.retransmissions, s.retransmitted_bytes), (4, 300));
            assert_eq!(other, TcpSide::default());
        }
    }

    #[test]
    fn a_gap_is_filled_piece_by_piece() {
        let tcp = run(&[
            (0, 0, ACK, 100, 0),
            (1, 0, ACK, 100, 400),
            (2, 0, ACK, 100, 100),
            (2, 0, ACK, 100, 300),
            (3, 0, ACK, 100, 200),
        ]);
        assert_eq!(
            (tcp.sides[0].out_of_order, tcp.sides[0].retransmissions),
            (3, 0)
        );
    }

    #[test]
    fn measures_both_halves_of_the_handshake_once() {
        let mut tcp = Tcp::default();
        let ms = Nanos::from_millis;
        tcp.add(ms(0), 0, SYN, 0, &facts(9, 0, 1));
        tcp.add(ms(1000), 0, SYN, 0, &facts(9, 0, 1));
        tcp.add(ms(1040), 1, SYN | ACK, 0, &facts(70, 10, 1));
        tcp.add(ms(1041), 1, SYN | ACK, 0, &facts(70, 10, 1));
        tcp.add(ms(1050), 0, ACK, 0, &facts(10, 70, 1));
        tcp.add(ms(1070), 0, ACK, 0, &facts(10, 71, 1));
        tcp.add(ms(1090), 0, ACK, 5, &facts(10, 71, 1));
        assert_eq!(tcp.syn_to_answer, Some(ms(40)));
        assert_eq!(tcp.answer_to_ack, Some(ms(30)));
        assert_eq!(tcp.sides[0].retransmissions, 1);
    }

    #[test]
    fn windows_are_scaled_when_both_sides_can() {
        let syn = |scale| TcpFacts {
            window_scale: scale,
            segment_size: Some(1460),
            ..facts(0, 0, 60_000)
        };
        for (answer, factor) in [(Some(2), 128), (None, 1)] {
            let mut tcp = Tcp::default();
            tcp.add(Nanos(0), 0, SYN, 0, &syn(Some(7)));
            tcp.add(Nanos(1), 1, SYN | ACK, 0, &syn(answer));
            for window in [500, 0, 700] {
                tcp.add(Nanos(2), 0, ACK, 0, &facts(1, 1, window));
            }
            tcp.add(Nanos(3), 0, RST, 0, &facts(1, 1, 0));
            let s = tcp.sides[0];
            assert_eq!((s.window, s.zero_windows), (Some((0, 700 * factor)), 1));
            assert_eq!((s.segment_size, tcp.sides[1].window), (Some(1460), None));
        }
    }

    #[test]
    fn duplicate_acknowledgements_repeat_number_and_window_without_payload() {
        let mut tcp = Tcp::default();
        for (payload, f) in [
            (0, facts(1, 50, 9)),
            (0, facts(1, 50, 9)),
            (0, facts(1, 50, 9)),
            (0, facts(1, 50, 8)),
            (7, facts(1, 50, 8)),
            (0, facts(8, 60, 8)),
        ] {
            tcp.add(Nanos(0), 1, ACK, payload, &f);
        }
        assert_eq!(tcp.sides[1].duplicate_acks, 2);
    }

    #[test]
    fn probes_of_an_idle_connection_and_their_answers_are_no_duplicates() {
        let mut tcp = Tcp::default();
        tcp.add(Nanos(0), 0, ACK, 10, &facts(2, 70, 9));
        tcp.add(Nanos(1), 1, ACK, 0, &facts(70, 12, 9));
        for t in 0..5 {
            tcp.add(Nanos::from_secs(t), 0, ACK, 0, &facts(11, 70, 9));
            tcp.add(Nanos::from_secs(t), 1, ACK, 0, &facts(70, 12, 9));
        }
        let counts = |tcp: &Tcp| tcp.sides.map(|s| (s.keep_alives, s.duplicate_acks));
        assert_eq!(counts(&tcp), [(5, 0), (0, 0)]);
        // A probe has one answer.
        tcp.add(Nanos::from_secs(9), 1, ACK, 0, &facts(70, 12, 9));
        assert_eq!(counts(&tcp), [(5, 0), (0, 1)]);
    }

    #[test]
    fn the_next_part_goes_on_from_the_same_numbers() {
        let mut tcp = run(&[(0, 0, ACK, 100, 0), (1, 0, ACK, 100, 0)]);
        assert_eq!(tcp.sides[0].retransmissions, 1);
        tcp.begin_part();
        assert_eq!(tcp.sides[0].retransmissions, 0);
        tcp.add(Nanos::from_millis(9), 0, ACK, 100, &facts(0, 0, 0));
        assert_eq!(tcp.sides[0].retransmissions, 1);
    }
}
