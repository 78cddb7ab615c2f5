//! From a capture to what each interface sends and when.
use chaff_abi::{Dir, Mac, Nanos};
use serde::Serialize;

use crate::ReplayError;
use crate::capture::{Capture, Packet};
use crate::devices::Devices;
use crate::frame::to_ethernet;
use crate::headers::{self, ETHERNET_LEN};
use crate::rewrite::Rewrite;
use crate::schedule::{Pacing, Timeline};

/// Shortest Ethernet frame without FCS; cards pad what is shorter.
pub const MIN_FRAME: usize = 60;

/// What leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Ethernet frames.
    Frames,
    /// IP packets, for a TUN device.
    IpPackets,
    /// Transport payloads of UDP and TCP, as datagrams.
    Payloads,
}

/// What becomes of frames that an interface cannot send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oversize {
    /// The replay does not start.
    #[default]
    Refuse,
    /// They are cut; their length fields stay as captured.
    Truncate,
    /// They are left out.
    Skip,
}

/// Where a lane leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// For messages.
    pub name: String,
    /// Largest IP packet (or datagram payload), bytes.
    pub mtu: u32,
}

/// How a plan is made.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The protected devices.
    pub devices: Devices,
    /// Only frames of this direction; with it, or with `involving`, other frames are left out.
    pub only: Option<Dir>,
    /// Leave out frames that neither come from nor go to a device.
    pub involving: bool,
    /// Leave out frames between two of the devices.
    pub skip_local: bool,
    /// Changes.
    pub rewrite: Rewrite,
    /// Fill cut frames with zeros up to their length on the wire.
    pub pad: bool,
    /// Frames over the MTU.
    pub oversize: Oversize,
    /// Send times.
    pub pacing: Pacing,
    /// What leaves.
    pub shape: Shape,
    /// One, or two: the first for frames from the devices, the second for all others.
    pub outlets: Vec<Outlet>,
    /// Most bytes the lanes may take.
    pub max_bytes: u64,
}

/// One thing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Since the loop's start.
    pub due: Nanos,
    /// Where its bytes start in the lane.
    pub offset: usize,
    /// How many there are.
    pub len: u32,
    /// Position on the timeline of all lanes.
    pub order: u32,
    /// Which file it came from.
    pub file: u32,
    /// Its number in the file.
    pub number: u32,
}

/// Everything that one outlet sends in one loop, ready in memory.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// All bytes, one frame behind the other.
    pub bytes: Vec<u8>,
    /// In sending order.
    pub slots: Vec<Slot>,
}

impl Lane {
    /// The bytes of a slot.
    pub fn frame(&self, s: &Slot) -> &[u8] {
        &self.bytes[s.offset..s.offset + s.len as usize]
    }
}

/// What happened to the packets of the captures on their way into the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Packets in the captures.
    pub read: u64,
    /// Packets in one loop.
    pub selected: u64,
    /// Frames that the capture had cut.
    pub cut: u64,
    /// Of those, filled with zeros.
    pub padded: u64,
    /// Zeros added, bytes.
    pub padding_bytes: u64,
    /// Left out by device or direction.
    pub other_devices: u64,
    /// Between two devices, sent or left out.
    pub between_devices: u64,
    /// Left out: not IP, or no transport payload, where the outlet needs one.
    pub unusable: u64,
    /// Left out: their link header is cut.
    pub malformed: u64,
    /// Over the MTU and left out.
    pub oversize_skipped: u64,
    /// Over the MTU and cut.
    pub oversize_truncated: u64,
    /// Capture times that went backwards.
    pub clamped: u64,
}

/// A replay, ready to start.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// One per outlet.
    pub lanes: Vec<Lane>,
    /// From one loop's start to the next, ns.
    pub period: f64,
    /// Last send time of a loop.
    pub length: Nanos,
    /// The account.
    pub selection: Selection,
}

/// A packet on its way into the plan.
struct Draft {
    bytes: Vec<u8>,
    wire_len: usize,
}

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// [`ReplayError::Empty`], [`ReplayError::TooLarge`], [`ReplayError::NoEthernet`], [`ReplayError::Memory`].
    pub fn new(capture: &Capture, options: &PlanOptions) -> Result<Self, ReplayError> {
        let mut plan = Self {
            lanes: vec![Lane::default(); options.outlets.len()],
            ..Self::default()
        };
        plan.selection.read = capture.packets.len() as u64;
        plan.selection.clamped = capture.clamped;
        let mut draft = Draft {
            bytes: Vec::new(),
            wire_len: 0,
        };
        let mut times = Vec::new();
        let mut lane_of = Vec::new();
        let mut too_large: Option<ReplayError> = None;
        let mut held = 0u64;
        for p in &capture.packets {
            let Some(dir) = plan.draft(capture, p, options, &mut draft)? else {
                continue;
            };
            let index = if options.outlets.len() > 1 {
                dir.index()
            } else {
                0
            };
            if let Err(e) = plan.fit(capture, p, options, &options.outlets[index], &mut draft) {
                if let Some(ReplayError::TooLarge { others, .. }) = &mut too_large {
                    *others += 1;
                } else {
                    too_large = Some(e);
                }
                continue;
            }
            if draft.bytes.is_empty() {
                continue;
            }
            held += (draft.bytes.len() + size_of::<Slot>() + 24) as u64;
            if held > options.max_bytes {
                return Err(ReplayError::Memory {
                    allowed: options.max_bytes >> 20,
                    packet: u64::from(p.number),
                    file: capture.file(p).to_owned(),
                });
            }
            let lane = &mut plan.lanes[index];
            lane.slots.push(Slot {
                due: Nanos::ZERO,
                offset: lane.bytes.len(),
                len: draft.bytes.len() as u32,
                order: times.len() as u32,
                file: p.file,
                number: p.number,
            });
            lane.bytes.extend_from_slice(&draft.bytes);
            lane_of.push(index);
            times.push((p.at, draft.bytes.len()));
        }
        if let Some(e) = too_large {
            return Err(e);
        }
        if times.is_empty() {
            return Err(ReplayError::Empty {
                read: plan.selection.read,
                filter: "selecting devices and usable packets",
            });
        }
        plan.selection.selected = times.len() as u64;
        plan.time(options.pacing, times, &lane_of);
        Ok(plan)
    }

    fn time(&mut self, pacing: Pacing, times: Vec<(Nanos, usize)>, lane_of: &[usize]) {
        let timeline = Timeline::new(pacing, times);
        let mut next = vec![0; self.lanes.len()];
        for (&lane, &due) in lane_of.iter().zip(&timeline.due) {
            self.lanes[lane].slots[next[lane]].due = due;
            next[lane] += 1;
        }
        self.period = timeline.period;
        self.length = timeline.due.last().copied().unwrap_or_default();
    }

    /// Brings one packet into the shape it leaves in; `None` when it is left out.
    fn draft(
        &mut self,
        capture: &Capture,
        p: &Packet,
        options: &PlanOptions,
        draft: &mut Draft,
    ) -> Result<Option<Dir>, ReplayError> {
        let count = &mut self.selection;
        let none = Mac::default();
        let Some(grown) = to_ethernet(p.link, capture.frame(p), none, none, &mut draft.bytes)
        else {
            count.malformed += 1;
            return Ok(None);
        };
        if draft.bytes.len() < ETHERNET_LEN {
            count.malformed += 1;
            return Ok(None);
        }
        draft.wire_len = (p.wire_len as usize).saturating_add_signed(grown);
        let frame = &mut draft.bytes;
        let (sent, receives) = (options.devices.sent(frame), options.devices.receives(frame));
        let dir = if sent { Dir::Out } else { Dir::In };
        if options.only.is_some_and(|only| only != dir) || (options.involving && !sent && !receives)
        {
            count.other_devices += 1;
            return Ok(None);
        }
        if sent && receives {
            count.between_devices += 1;
            if options.skip_local {
                return Ok(None);
            }
        }
        let before = frame.len();
        options.rewrite.apply(dir, frame);
        draft.wire_len = (draft.wire_len + frame.len()).saturating_sub(before);
        if options.shape == Shape::Frames && frame[6..12] == [0; 6] {
            let (src, dst) = options.rewrite.macs(dir);
            let missing_dst = frame[..6] == [0; 6] && dst.is_none();
            if src.is_none() || missing_dst {
                return Err(ReplayError::NoEthernet {
                    packet: u64::from(p.number),
                    file: capture.file(p).to_owned(),
                    link: format!("{:?}", p.link),
                });
            }
        }
        if count_cut(count, draft, options.pad) && options.pad {
            draft.bytes.resize(draft.wire_len, 0);
        }
        if !reshape(options.shape, draft) {
            self.selection.unusable += 1;
            return Ok(None);
        }
        Ok(Some(dir))
    }

    /// Applies the outlet's limit.
    fn fit(
        &mut self,
        capture: &Capture,
        p: &Packet,
        options: &PlanOptions,
        outlet: &Outlet,
        draft: &mut Draft,
    ) -> Result<(), ReplayError> {
        let allowed = match options.shape {
            // The kernel lets one 802.1Q tag go over the MTU.
            Shape::Frames if draft.bytes.get(12..14) == Some(&[0x81, 0]) => {
                outlet.mtu as usize + ETHERNET_LEN + 4
            }
            Shape::Frames => outlet.mtu as usize + ETHERNET_LEN,
            Shape::IpPackets | Shape::Payloads => outlet.mtu as usize,
        };
        if draft.bytes.len() <= allowed {
            return Ok(());
        }
        match options.oversize {
            Oversize::Refuse => Err(ReplayError::TooLarge {
                packet: u64::from(p.number),
                file: capture.file(p).to_owned(),
                len: draft.bytes.len(),
                allowed,
                interface: outlet.name.clone(),
                mtu: outlet.mtu,
                others: 0,
            }),
            Oversize::Truncate => {
                self.selection.oversize_truncated += 1;
                draft.bytes.truncate(allowed);
                Ok(())
            }
            Oversize::Skip => {
                self.selection.oversize_skipped += 1;
                draft.bytes.clear();
                Ok(())
            }
        }
    }
}

fn count_cut(count: &mut Selection, draft: &Draft, pad: bool) -> bool {
    let missing = draft.wire_len.saturating_sub(draft.bytes.len());
    if missing > 0 {
        count.cut += 1;
        if pad {
            count.padded += 1;
            count.padding_bytes += missing as u64;
        }
    }
    missing > 0
}

/// Takes off what the outlet does not want; false when nothing usable is left.
fn reshape(shape: Shape, draft: &mut Draft) -> bool {
    let range = match shape {
        Shape::Frames => return true,
        Shape::IpPackets => {
            headers::layers(&draft.bytes).and_then(|l| l.ip.map(|ip| l.network..ip.end))
        }
        Shape::Payloads => headers::layers(&draft.bytes)
            .and_then(|l| l.ip)
            .and_then(|ip| headers::payload(&draft.bytes, &ip)),
    };
    let Some(range) = range.filter(|r| !r.is_empty() && r.start <= draft.bytes.len()) else {
        return false;
    };
    draft.bytes.truncate(range.end);
    draft.bytes.drain(..range.start);
    !draft.bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_flow::Link;
    use etherparse::PacketBuilder;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// Frames from A, B, A, ... at 1 ms distances with the given payload lengths, captured up to `snap` bytes.
    fn capture(payloads: &[usize], snap: usize) -> Capture {
        let mut c = Capture {
            files: vec!["test.pcap".into()],
            ..Capture::default()
        };
        for (i, &n) in payloads.iter().enumerate() {
            let (src, dst) = if i % 2 == 0 { (A, B) } else { (B, A) };
            let mut b = Vec::new();
            PacketBuilder::ethernet2(src, dst)
                .ipv4([10, 0, 0, src[5]], [10, 0, 0, dst[5]], 9)
                .udp(1, 2)
                .write(&mut b, &vec![i as u8; n])
                .unwrap();
            let wire_len = b.len() as u32;
            b.truncate(snap);
            c.packets.push(Packet {
                at: Nanos::from_millis(i as u64),
                offset: c.bytes.len(),
                len: b.len() as u32,
                wire_len,
                file: 0,
                number: i as u32 + 1,
                link: Link::Ethernet,
            });
            c.bytes.extend(b);
        }
        c
    }

    fn options(outlets: usize) -> PlanOptions {
        let mut devices = Devices::default();
        devices.add_mac(Mac(A));
        let outlet = Outlet {
            name: "lan".into(),
            mtu: 1500,
        };
        PlanOptions {
            devices,
            only: None,
            involving: false,
            skip_local: false,
            rewrite: Rewrite::default(),
            pad: true,
            oversize: Oversize::Refuse,
            pacing: Pacing::Capture { speed: 1.0 },
            shape: Shape::Frames,
            outlets: vec![outlet; outlets],
            max_bytes: 1 << 20,
        }
    }

    #[test]
    fn splits_by_direction_on_one_timeline() {
        let plan = Plan::new(&capture(&[9, 9, 9, 9, 9], 2000), &options(2)).unwrap();
        let due = |l: usize| -> Vec<u64> {
            plan.lanes[l]
                .slots
                .iter()
                .map(|s| s.due.as_millis())
                .collect()
        };
        assert_eq!(due(0), [0, 2, 4]);
        assert_eq!(due(1), [1, 3]);
        assert_eq!(plan.lanes[1].slots[1].order, 3);
    }

    #[test]
    fn pads_cut_frames_to_their_wire_length_and_says_so() {
        let c = capture(&[200, 3], 96);
        let plan = Plan::new(&c, &options(1)).unwrap();
        let lens: Vec<u32> = plan.lanes[0].slots.iter().map(|s| s.len).collect();
        assert_eq!(lens, [242, 45]);
        let s = plan.selection;
        assert_eq!((s.cut, s.padded, s.padding_bytes), (1, 1, 146));
        let mut bare = options(1);
        bare.pad = false;
        assert_eq!(Plan::new(&c, &bare).unwrap().lanes[0].slots[0].len, 96);
    }

    #[test]
    fn frames_over_the_mtu_are_named_cut_or_left_out() {
        let c = capture(&[100, 1600, 1700], 2000);
        let e = Plan::new(&c, &options(1)).unwrap_err().to_string();
        assert!(e.contains("packet 2 of test.pcap: 1642 bytes"), "{e}");
        assert!(e.contains("1514") && e.contains("(1 more"), "{e}");
        let mut o = options(1);
        o.oversize = Oversize::Truncate;
        assert_eq!(Plan::new(&c, &o).unwrap().lanes[0].slots[1].len, 1514);
        o.oversize = Oversize::Skip;
        let plan = Plan::new(&c, &o).unwrap();
        assert_eq!(
            (plan.lanes[0].slots.len(), plan.selection.oversize_skipped),
            (1, 2)
        );
        assert_eq!(plan.lanes[0].slots[0].number, 1);
    }

    #[test]
    fn one_tag_goes_over_the_mtu_as_in_the_kernel() {
        let mut o = options(1);
        o.rewrite = Rewrite::parse(&["vlan=7"]).unwrap();
        let plan = Plan::new(&capture(&[1472], 2000), &o).unwrap();
        assert_eq!(plan.lanes[0].slots[0].len, 1518);
    }

    #[test]
    fn takes_payloads_of_the_device_padded_to_their_length() {
        let mut o = options(1);
        o.shape = Shape::Payloads;
        o.only = Some(Dir::Out);
        let plan = Plan::new(&capture(&[100, 50, 0, 60, 70], 60), &o).unwrap();
        let lens: Vec<u32> = plan.lanes[0].slots.iter().map(|s| s.len).collect();
        assert_eq!(lens, [100, 70]);
        let s = plan.selection;
        assert_eq!((s.unusable, s.other_devices), (1, 2));
    }

    #[test]
    fn takes_ip_packets_without_link_header_and_padding() {
        let mut o = options(1);
        o.shape = Shape::IpPackets;
        let mut c = capture(&[5], 2000);
        c.bytes.extend([0; 13]);
        c.packets[0].len = 60;
        c.packets[0].wire_len = 60;
        let plan = Plan::new(&c, &o).unwrap();
        assert_eq!(
            (plan.lanes[0].bytes[0], plan.lanes[0].slots[0].len),
            (0x45, 33)
        );
    }

    #[test]
    fn raw_ip_needs_addresses() {
        let mut c = capture(&[5], 2000);
        c.packets[0].link = Link::RawIp;
        c.packets[0].offset += 14;
        c.packets[0].len -= 14;
        c.packets[0].wire_len -= 14;
        assert!(matches!(
            Plan::new(&c, &options(1)),
            Err(ReplayError::NoEthernet { .. })
        ));
        let mut o = options(1);
        o.rewrite =
            Rewrite::parse(&["src-mac=02:00:00:00:00:05,dst-mac=02:00:00:00:00:06"]).unwrap();
        let plan = Plan::new(&c, &o).unwrap();
        assert_eq!(
            plan.lanes[0].bytes[..14],
            [2, 0, 0, 0, 0, 6, 2, 0, 0, 0, 0, 5, 8, 0]
        );
    }

    #[test]
    fn refuses_more_than_the_allowed_memory() {
        let mut o = options(1);
        o.max_bytes = 300;
        assert!(matches!(
            Plan::new(&capture(&[9; 10], 2000), &o),
            Err(ReplayError::Memory { .. })
        ));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(2_000) })]
        #[test]
        fn arbitrary_packets_never_panic(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
            link in 0usize..5, shape in 0usize..3, head in 0usize..5, longer in 0u32..300,
        ) {
            let types: [[u8; 2]; 5] = [[0x08, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0x08, 6]];
            if bytes.len() > 15 {
                bytes[12..14].copy_from_slice(&types[head]);
                bytes[14] = if head == 0 { 0x45 } else { 0x60 };
            }
            let mut c = capture(&[], 0);
            let len = bytes.len() as u32;
            let links = [Link::Ethernet, Link::RawIp, Link::LinuxSll, Link::LinuxSll2, Link::Null];
            c.packets.push(Packet {
                at: Nanos::ZERO, offset: 0, len, wire_len: len + longer, file: 0, number: 1, link: links[link],
            });
            c.bytes = bytes;
            let mut o = options(2);
            o.shape = [Shape::Frames, Shape::IpPackets, Shape::Payloads][shape];
            o.oversize = Oversize::Truncate;
            o.rewrite = Rewrite::parse(&["ip=10.0.0.1,ip=fd00::1,vlan=strip,src-mac=02:00:00:00:00:05,dst-mac=02:00:00:00:00:06"]).unwrap();
            if let Ok(plan) = Plan::new(&c, &o) {
                let sent: usize = plan.lanes.iter().map(|l| l.slots.len()).sum();
                proptest::prop_assert_eq!(sent, 1);
            }
        }
    }
}
