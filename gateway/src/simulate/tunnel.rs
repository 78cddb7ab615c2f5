//! Both ends of the gateway's own tunnel, with `--mode tunnel`.

use std::cell::RefCell;
use std::rc::Rc;

use chaff_abi::Nanos;
use chaff_tunnel::{PeerConfig, PrivateKey, Tunnel};
use rand::Rng;
use rand_chacha::ChaCha20Rng;

use super::args::Args;
use crate::captures::Home;
use crate::config::ENVELOPE;

/// Both ends of a tunnel.
pub(super) type Ends = [Rc<RefCell<Tunnel>>; 2];

/// Both ends of a tunnel with new keys.
pub(super) fn ends(
    args: &Args,
    home: &Home,
    rng: &mut ChaCha20Rng,
    far_at: std::net::SocketAddr,
) -> anyhow::Result<Ends> {
    let covered = home.devices.iter().filter(|d| d.cover).count().max(1) as u64;
    let [home, far] = [PrivateKey::generate(rng), PrivateKey::generate(rng)];
    let config = chaff_tunnel::Config {
        profile: args.bins,
        hold: Nanos::from_secs_f64(args.hold / 1e3),
        clock: Nanos::from_secs_f64(args.clock / 1e3),
        // Virtual seconds are no real ones: nothing may depend on the system's clock.
        erase_keys: false,
        handshakes_per_second: u64::MAX,
        // The budget was kept where cover was planned.
        cover_rate: 1 << 40,
        cover_burst: 1 << 40,
        ..chaff_tunnel::Config::default()
    };
    let everything = ["0.0.0.0/0", "::/0"].iter();
    let everything: Vec<_> = everything.filter_map(|p| p.parse().ok()).collect();
    let peer = |key: &PrivateKey, endpoint| PeerConfig {
        public_key: key.public(),
        preshared_key: None,
        allowed: everything.clone(),
        endpoint,
    };
    let mut on = chaff_tunnel::Config {
        always_on: args.cover != "none",
        ..config.clone()
    };
    if args.cover == ENVELOPE {
        on.envelope = Some(args.profile.envelope());
        on.cover_rate = args.rate.0.saturating_mul(covered);
        on.cover_burst = on.cover_rate.saturating_mul(60);
    }
    let zero = Nanos::ZERO;
    let near = Tunnel::new(&home, on, &[peer(&far, Some(far_at))], rng.random(), zero)?;
    let far = Tunnel::new(&far, config, &[peer(&home, None)], rng.random(), zero)?;
    Ok([near, far].map(|t| Rc::new(RefCell::new(t))))
}
