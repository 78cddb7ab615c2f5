//! Application hints of the first packets of a flow.

use super::Config;
use super::cache::Extras;
use super::flow::Core;
use super::packet::Packet;
use crate::app::Hints;

/// A dissector at work.
pub(super) struct Dissection;

/// Gives the flow's dissector a packet that `core` counts already, as long as it wants more.
pub(super) fn observe(
    _extras: &mut Extras,
    _config: &Config,
    _core: &Core,
    _packet: &Packet<'_>,
    _forward: bool,
) {
}

/// Takes what was found.
pub(super) fn finish(extras: &mut Extras, _core: &Core) {
    extras.hints = Some(Box::<Hints>::default());
}
