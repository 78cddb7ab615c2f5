//! Clock, expiry and emission.

use std::collections::VecDeque;

use chaff_abi::Nanos;

use super::cache::{Cache, Taken};
use super::flow::{Core, Expiration, Flow, size_of};
use super::hasher::Hasher;
use super::packet::{Ignored, Packet, parse};
use super::{Config, columns};
use crate::app::Room;
use crate::plugin::{Extension, FlowView, Next, PacketView, PluginError, Plugins};
use crate::{Column, Link};

/// Time between two scans for idle flows, ms.
const SCAN_INTERVAL: u64 = 10;
/// Idle flows that one scan emits at most.
const SCAN_BUDGET: usize = 1000;

/// Makes flows of frames, as one meter process of NFStream does.
///
/// Give it the frames of all captures in order with [`Meter::observe`], take flows with [`Meter::poll`] after each,
/// then call [`Meter::finish`] and take the rest.
pub struct Meter {
    config: Config,
    hasher: Hasher,
    cache: Cache,
    plugins: Plugins,
    room: Room,
    /// Newest time of all packets, ms.
    tick: u64,
    last_scan: u64,
    idle_ms: u64,
    active_ms: u64,
    done: VecDeque<Flow>,
    finished: bool,
    stats: MeterStats,
}

/// What a meter has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterStats {
    /// Packets counted in flows.
    pub packets: u64,
    /// Frames left out, by [`Ignored::index`].
    pub ignored: [u64; Ignored::ALL.len()],
    /// Flows emitted.
    pub flows: u64,
    /// Flows emitted early because the cache was full.
    pub evicted: u64,
    /// Packets whose time lay before an earlier one; they were moved up to it.
    pub disordered: u64,
    /// Largest number of flows kept at once.
    pub peak_cached: usize,
}

impl MeterStats {
    /// Frames left out for any reason.
    pub fn total_ignored(&self) -> u64 {
        self.ignored.iter().sum()
    }
}

impl Meter {
    /// A meter without flows.
    pub fn new(mut config: Config) -> Self {
        // Slots are 32 bits wide.
        config.max_cached = config.max_cached.clamp(1, 1 << 31);
        let has_extras = config.splt > 0 || config.dissect > 0;
        Self {
            hasher: Hasher::new(config.hash_seed),
            cache: Cache::new(config.statistics, has_extras),
            plugins: Plugins::default(),
            room: Room::new(config.dissect_room),
            tick: 0,
            last_scan: 0,
            idle_ms: u64::from(config.idle_timeout_s) * 1000,
            active_ms: u64::from(config.active_timeout_s) * 1000,
            done: VecDeque::new(),
            finished: false,
            stats: MeterStats::default(),
            config,
        }
    }

    /// Adds a plugin; its columns follow those of the meter as `udps.NAME`. Flows in progress are not kept: do it first.
    /// Whether its columns have names of their own is the caller's business; [`Meter::try_add_plugin`] looks.
    pub fn add_plugin(&mut self, plugin: impl Into<Extension>) {
        self.plugins.add(plugin);
        self.cache = Cache::new(self.config.statistics, true);
    }

    /// [`Meter::add_plugin`] unless a column of the plugin has the name of another plugin's.
    ///
    /// # Errors
    /// [`PluginError::Column`]; the meter is as before.
    pub fn try_add_plugin(&mut self, plugin: impl Into<Extension>) -> Result<(), PluginError> {
        self.plugins.try_add(plugin)?;
        self.cache = Cache::new(self.config.statistics, true);
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The columns of its flows, in NFStream's order.
    pub fn columns(&self) -> Vec<Column> {
        let mut all = columns::columns(&self.config);
        all.extend(self.plugins.columns("udps."));
        if self.config.processes {
            all.extend(columns::processes());
        }
        all
    }

    /// What it has done so far.
    pub fn stats(&self) -> &MeterStats {
        &self.stats
    }

    /// Flows in progress.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Whether [`Config::max_flows`] are reached: further frames change nothing.
    pub fn is_done(&self) -> bool {
        self.config.max_flows > 0 && self.stats.flows >= self.config.max_flows
    }

    /// Takes in one frame.
    ///
    /// `at_ms` is the time in milliseconds since the Unix epoch, as whole seconds plus the fraction cut to milliseconds towards
    /// zero; it can be negative only in broken captures. `wire_len` is the length before the capture cut the frame.
    ///
    /// # Errors
    /// Why the frame is in no flow. It is counted, and does not move the clock.
    #[inline]
    pub fn observe(
        &mut self,
        link: Link,
        at_ms: i64,
        frame: &[u8],
        wire_len: usize,
    ) -> Result<(), Ignored> {
        if self.is_done() {
            return Ok(());
        }
        self.finished = false;
        let packet = match parse(link, frame, wire_len, self.config.decode_tunnels) {
            Ok(packet) => packet,
            Err(reason) => {
                self.stats.ignored[reason.index()] += 1;
                return Err(reason);
            }
        };
        self.stats.packets += 1;
        // NFStream's clock is unsigned: a negative time is far in the future.
        let at = at_ms as u64;
        if at >= self.tick {
            self.tick = at;
        } else {
            self.stats.disordered += 1;
        }
        let scan = self.tick - self.last_scan >= SCAN_INTERVAL;
        self.consume(&packet);
        if scan {
            self.last_scan = self.tick;
            self.scan();
        }
        Ok(())
    }

    /// The next flow that has ended. Take all of them after each frame: the queue has no bound of its own.
    #[inline]
    pub fn poll(&mut self) -> Option<Flow> {
        if self.finished && self.done.is_empty() {
            self.end_oldest();
        }
        self.done.pop_front()
    }

    /// The input has ended: [`Meter::poll`] gives all flows in progress, in the order of their creation. They stay where they are
    /// until then. A frame after this goes into a flow as before.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    fn end_oldest(&mut self) {
        while self.done.is_empty()
            && let Some(slot) = self.cache.oldest()
        {
            self.end(slot, Expiration::Idle);
        }
    }

    #[inline]
    fn consume(&mut self, packet: &Packet<'_>) {
        let tag = self.hasher.tag(packet);
        let at = self.tick;
        if let Some(slot) = self.cache.find(tag, packet) {
            let core = self.cache.core(slot);
            let (first, last) = core.map_or((at, at), |core| (core.first, core.last));
            if at - last >= self.idle_ms {
                self.end(slot, Expiration::Idle);
            } else if at - first >= self.active_ms {
                self.end(slot, Expiration::Active);
            } else {
                self.count(slot, packet);
                return;
            }
        } else if self.cache.len() >= self.config.max_cached
            && let Some(slot) = self.cache.oldest()
        {
            self.stats.evicted += 1;
            self.end(slot, Expiration::Idle);
        }
        let slot = self.cache.insert(Core::new(packet, at, tag));
        self.stats.peak_cached = self.stats.peak_cached.max(self.cache.len());
        self.count(slot, packet);
    }

    /// Adds a packet to its flow.
    #[inline]
    fn count(&mut self, slot: u32, packet: &Packet<'_>) {
        let Some(found) = self.cache.get(slot) else {
            return;
        };
        let size = size_of(&self.config, packet);
        let forward = found.core.is_forward(packet);
        let gaps = found.core.add(self.tick, forward, size);
        if let Some(statistics) = found.statistics {
            statistics.add(found.core, forward, size, gaps, packet.tcp_flags);
        }
        let Some(extras) = found.extras else {
            return;
        };
        extras
            .sequence
            .push(self.config.splt, forward, size, gaps[0]);
        if self.config.dissect > 0 {
            extras
                .dissection
                .observe(&self.config, &self.room, found.core, packet);
        }
        if self.plugins.is_empty() {
            return;
        }
        let flow = flow_view(found.core);
        let packet = packet_view(packet, self.tick, gaps[0], forward);
        let next = match &mut extras.states {
            Some(states) => self.plugins.update(states, &flow, &packet),
            None => {
                let (states, next) = self.plugins.start(&flow, &packet);
                extras.states = Some(Box::new(states));
                next
            }
        };
        if next == Next::End {
            self.end(slot, Expiration::Custom);
        }
    }

    /// Emits idle flows from the oldest on, and stops at the first that is not idle.
    fn scan(&mut self) {
        for _ in 0..SCAN_BUDGET {
            let Some(slot) = self.cache.oldest() else {
                return;
            };
            let last = self.cache.core(slot).map_or(self.tick, |core| core.last);
            if self.tick - last < self.idle_ms {
                return;
            }
            self.end(slot, Expiration::Idle);
        }
    }

    fn end(&mut self, slot: u32, expiration: Expiration) {
        let Some(Taken {
            core,
            statistics,
            extras,
        }) = self.cache.remove(slot)
        else {
            return;
        };
        if self.is_done() {
            return;
        }
        let mut extra = Vec::new();
        if let Some(states) = extras.states {
            self.plugins.expire(*states, &flow_view(&core), &mut extra);
        }
        self.done.push_back(Flow {
            id: self.stats.flows,
            expiration,
            core,
            statistics,
            sequence: extras.sequence,
            hints: extras.dissection.finish(),
            extra,
            process: None,
        });
        self.stats.flows += 1;
    }
}

fn flow_view(core: &Core) -> FlowView {
    FlowView {
        source: core.src.to_ip(core.ip_version),
        destination: core.dst.to_ip(core.ip_version),
        source_port: core.src_port,
        destination_port: core.dst_port,
        protocol: core.protocol,
        first: nanos(core.first),
        last: nanos(core.last),
        packets: core.directions.map(|d| d.packets),
        bytes: core.directions.map(|d| d.bytes),
    }
}

fn packet_view<'a>(packet: &Packet<'a>, at: u64, gap: u64, forward: bool) -> PacketView<'a> {
    PacketView {
        at: nanos(at),
        gap: nanos(gap),
        forward,
        frame_size: packet.sizes[0].into(),
        ip_size: packet.sizes[1].into(),
        transport_size: packet.sizes[2].into(),
        payload_size: packet.sizes[3].into(),
        source: packet.src.to_ip(packet.ip_version),
        destination: packet.dst.to_ip(packet.ip_version),
        source_mac: packet.src_mac,
        destination_mac: packet.dst_mac,
        source_port: packet.src_port,
        destination_port: packet.dst_port,
        protocol: packet.protocol,
        ip_version: packet.ip_version,
        vlan: packet.vlan,
        tunnel: packet.tunnel,
        tcp_flags: packet.tcp_flags,
        ip_packet: packet.ip,
    }
}

fn nanos(ms: u64) -> Nanos {
    Nanos(ms.saturating_mul(1_000_000))
}
