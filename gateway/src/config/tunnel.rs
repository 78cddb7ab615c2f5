//! `[tunnel]`: the gateway's own tunnel.

use std::path::PathBuf;

use anyhow::bail;
use chaff_abi::Nanos;
use chaff_tunport::defaults;
use serde::{Deserialize, Serialize};

use super::{Interfaces, within};
use crate::units::{Bytes, Duration};

/// `[tunnel]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// wg-style file with own key and one peer, mode 0600; `sink-server keygen` makes it.
    pub config: Option<PathBuf>,
    /// Name of the tunnel's interface.
    pub interface: String,
    /// `auto` (offload where it works), `fast` or `portable`.
    pub engine: chaff_tunport::EngineName,
    /// Lengths on the wire: `off` (as plain WireGuard), `fine` (six), `default` (three), `mtu` (one).
    pub bins: chaff_tunnel::Profile,
    /// Longest time a real packet may wait to take the place of a dummy, 0ms to 1s; 20ms to 50ms makes times regular.
    pub hold: Duration,
    /// Time between the moments at which packets leave, real ones and cover alike, 0ms to 100ms; 0ms lets each leave at once. Delays
    /// packets by half of it on average and hides the gaps between them, which tell devices apart.
    pub clock: Duration,
    /// `block`: without a tunnel devices are cut off (kill switch). `fall-back`: they take the ordinary route, in clear.
    pub when_down: chaff_tunport::WhenDown,
    /// What a clean stop leaves: `open`, or with when_down `block` also `block`, until `gateway open`.
    pub when_stopped: WhenStopped,
    /// Keep a session also without real traffic, so that cover never pauses.
    pub always_on: bool,
    /// Silence of the far end that makes a new handshake, 4s to 15s; below 15s only while its cover is asked for.
    pub silence: Duration,
    /// MTU inside the tunnel, 1280 to 8920; the wg-style file's own value goes before it.
    pub mtu: u16,
    /// Most cover bytes per calendar month (UTC), uplink; 0B for no limit.
    pub month: Bytes,
    /// Cover pauses while this file exists: for a script that knows when the uplink is metered.
    pub pause_file: Option<PathBuf>,
    /// Datagrams that leave in one burst, 1 to 64.
    pub burst: usize,
    /// Devices take the tunnel's address inside it, and nothing comes out of it unasked. Off when the far end knows the home's
    /// addresses, and is trusted with its devices.
    pub masquerade: bool,
    /// What this machine itself sends goes into the tunnel too, such as the questions of a resolver that devices ask; with when_down
    /// `block` none of it leaves in clear. Connections from outside to this machine then get no answers.
    pub own_traffic: bool,
    /// Number of the routing table used, 256 or more.
    pub table: u32,
}

/// What is left in force after a clean stop.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenStopped {
    /// Nothing: devices take the ordinary route.
    #[default]
    Open,
    /// The kill switch.
    Block,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            config: None,
            interface: defaults::INTERFACE.into(),
            engine: chaff_tunport::EngineName::Auto,
            bins: chaff_tunnel::Profile::Default,
            hold: Duration(defaults::HOLD),
            clock: Duration(defaults::CLOCK),
            when_down: chaff_tunport::WhenDown::Block,
            when_stopped: WhenStopped::Open,
            always_on: true,
            silence: Duration(Nanos::from_secs(5)),
            mtu: 1_420,
            month: Bytes(0),
            pause_file: None,
            burst: defaults::BURST,
            masquerade: defaults::MASQUERADE,
            own_traffic: false,
            table: 51_877,
        }
    }
}

impl Tunnel {
    /// Checks the keys, for a gateway with these interfaces.
    pub(super) fn check(&self, interfaces: &Interfaces) -> anyhow::Result<()> {
        let t = self;
        if t.config.is_none() {
            bail!(
                "tunnel.config is missing: the wg-style file of this gateway, made by `sink-server keygen --peer FILE`, needed with \
                 cover.mode \"tunnel\""
            );
        }
        let zero = Duration(Nanos::ZERO);
        within("tunnel.hold", t.hold, zero, Duration(defaults::MOST_HOLD))?;
        within(
            "tunnel.clock",
            t.clock,
            zero,
            Duration(defaults::MOST_CLOCK),
        )?;
        let silence = [4, 15].map(|s| Duration(Nanos::from_secs(s)));
        within("tunnel.silence", t.silence, silence[0], silence[1])?;
        within(
            "tunnel.mtu",
            t.mtu,
            chaff_tunnel::MIN_MTU,
            chaff_tunnel::MAX_MTU,
        )?;
        within("tunnel.burst", t.burst, 1, defaults::MOST_BURST)?;
        within("tunnel.table", t.table, 256, u32::MAX)?;
        let name = &t.interface;
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', '"']) {
            bail!(
                "tunnel.interface is `{name}`, allowed are 1 to 15 characters without /, \" and spaces"
            );
        }
        if interfaces.lan.contains(name) || interfaces.wan.as_ref() == Some(name) {
            bail!("tunnel.interface is `{name}`, which is also in interfaces");
        }
        if t.when_down == chaff_tunport::WhenDown::FallBack {
            if interfaces.wan.is_none() {
                bail!("interfaces.wan is missing: tunnel.when_down \"fall-back\" needs it");
            }
            if t.when_stopped == WhenStopped::Block {
                bail!(
                    "tunnel.when_stopped is \"block\", which tunnel.when_down \"fall-back\" contradicts"
                );
            }
        }
        Ok(())
    }
}
