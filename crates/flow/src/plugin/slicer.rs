//! Flows of at most so many packets.

use super::{FlowView, Next, Options, PacketView, Plugin, PluginError};
use crate::{Column, Value};

/// Ends each flow at `limit` packets; what follows makes further flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicer {
    /// Packets, at least 1.
    pub limit: u64,
}

impl Slicer {
    pub(super) fn from_options(options: &Options<'_>) -> Result<Self, PluginError> {
        options.only("slicer", "limit", &["limit"])?;
        let wanted = "a number of packets, at least 1";
        let limit = options.number("slicer", "limit", wanted, u64::MAX, 10)?;
        Ok(Self { limit })
    }

    fn next(&self, flow: &FlowView) -> Next {
        if flow.total_packets() == self.limit {
            Next::End
        } else {
            Next::Go
        }
    }
}

impl Plugin for Slicer {
    type State = ();

    fn name(&self) -> &'static str {
        "slicer"
    }

    fn columns(&self) -> Vec<Column> {
        Vec::new()
    }

    fn start(&self, flow: &FlowView, _: &PacketView<'_>) -> ((), Next) {
        ((), self.next(flow))
    }

    fn update(&self, (): &mut (), flow: &FlowView, _: &PacketView<'_>) -> Next {
        self.next(flow)
    }

    fn expire(&self, (): (), _: &FlowView, _: &mut Vec<Value>) {}
}
