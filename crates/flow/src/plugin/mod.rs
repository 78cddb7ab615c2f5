//! Own columns and own ends of flows: what a user adds to a meter without touching it.
//!
//! A [`Plugin`] makes a state when a flow starts, sees each later packet, and adds its values when the flow ends; it may
//! end a flow early. The same plugin works with every profile. A complete one:
//!
//! ```
//! use chaff_flow::plugin::{FlowView, Next, PacketView, Plugin, column};
//! use chaff_flow::{Column, Kind, Value};
//!
//! /// Largest payload of a flow; ends the flow at a packet with RST.
//! struct Largest;
//!
//! impl Plugin for Largest {
//!     type State = u32;
//!     fn name(&self) -> &'static str { "largest" }
//!     fn columns(&self) -> Vec<Column> { vec![column("largest", Kind::Unsigned, "bytes", "largest payload")] }
//!     fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (u32, Next) {
//!         let mut state = 0;
//!         let next = self.update(&mut state, flow, packet);
//!         (state, next)
//!     }
//!     fn update(&self, state: &mut u32, _: &FlowView, packet: &PacketView<'_>) -> Next {
//!         *state = packet.payload_size.max(*state);
//!         if packet.tcp_flags & 4 == 0 { Next::Go } else { Next::End }
//!     }
//!     fn expire(&self, state: u32, _: &FlowView, row: &mut Vec<Value>) { row.push(Value::Unsigned(state.into())) }
//! }
//!
//! let mut meter = chaff_flow::nfstream::Meter::new(Default::default());
//! meter.add_plugin(Largest);
//! assert_eq!(meter.columns().last().map(|c| &*c.name), Some("udps.largest"));
//! ```
//!
//! The built-in ones are those of NFStream 6.6.0, its odd rules included: [`Slicer`], [`Splt`], [`Dhcp`], [`Mdns`],
//! [`Ja4`], [`Wavelet`]; [`Extension::built_in`] makes them from a text such as `slicer,limit=4`.

mod dhcp;
mod ja4;
mod mdns;
mod slicer;
mod splt;
mod view;
mod wavelet;

use std::any::Any;
use std::collections::BTreeMap;

use crate::{Column, Kind, Value};

pub use dhcp::Dhcp;
pub use ja4::Ja4;
pub use mdns::Mdns;
pub use slicer::Slicer;
pub use splt::{Size, Splt};
pub use view::{FlowView, MeterView, PacketView};
pub use wavelet::Wavelet;

/// Whether a flow goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Go,
    /// It ends with this packet; a later packet of the same key starts another flow.
    End,
}

/// Adds columns to flows, or ends them early. See the module's first page for an example.
pub trait Plugin: Send + 'static {
    /// What it keeps for a flow. Give it a bound: there are as many as flows.
    type State: Send + 'static;

    /// Short name, as users choose it.
    fn name(&self) -> &'static str;

    /// The columns it adds, without a profile's prefix. Always the same ones.
    fn columns(&self) -> Vec<Column>;

    /// It is added to a meter of the native profile: the place to take over settings. Does nothing by default; the nfstream
    /// profile does not call it, because there a plugin knows only its own options.
    fn attach(&mut self, _: &MeterView) {}

    /// A flow starts with this packet, which `flow` counts already. [`Plugin::update`] is not called for it.
    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (Self::State, Next);

    /// A later packet, which `flow` counts already.
    fn update(&self, state: &mut Self::State, flow: &FlowView, packet: &PacketView<'_>) -> Next;

    /// The flow has ended: one value a column. Missing ones become [`Value::Missing`], further ones are dropped.
    fn expire(&self, state: Self::State, flow: &FlowView, row: &mut Vec<Value>);
}

/// A column of a plugin.
pub fn column(
    name: impl Into<std::borrow::Cow<'static, str>>,
    kind: Kind,
    unit: &'static str,
    doc: &'static str,
) -> Column {
    Column {
        name: name.into(),
        kind,
        unit: unit.into(),
        doc: doc.into(),
    }
}

/// A plugin of any state type.
pub struct Extension {
    plugin: Box<dyn Erased>,
    columns: usize,
}

impl<P: Plugin> From<P> for Extension {
    fn from(plugin: P) -> Self {
        Self {
            columns: plugin.columns().len(),
            plugin: Box::new(plugin),
        }
    }
}

/// A text does not describe a built-in plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// There is no such plugin.
    #[error("no plugin is called {0:?}; there are slicer, splt, dhcp, mdns, ja4, wavelet")]
    Name(String),
    /// The plugin has no such option.
    #[error("plugin {plugin} has no option {option:?}; it has: {known}")]
    Option {
        /// Name of the plugin.
        plugin: &'static str,
        /// As given.
        option: String,
        /// The options there are.
        known: &'static str,
    },
    /// The value of an option is not in its range.
    #[error("{option} of plugin {plugin} is {value:?}, not {wanted}")]
    Value {
        /// Name of the plugin.
        plugin: &'static str,
        /// Name of the option.
        option: &'static str,
        /// As given.
        value: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Two columns have one name.
    #[error(
        "plugin {plugin} has a column {column:?}, and plugin {other} has it already; give only one of them"
    )]
    Column {
        /// Name of the plugin.
        plugin: &'static str,
        /// Name of the column, without a profile's prefix.
        column: String,
        /// The plugin that has it already: often the same one, given twice.
        other: &'static str,
    },
}

/// Whether plugins can be together in a meter of either profile: no two columns have one name.
///
/// # Errors
/// [`PluginError::Column`] for the first column that another one is called like.
pub fn check<'a>(plugins: impl IntoIterator<Item = &'a Extension>) -> Result<(), PluginError> {
    let mut taken: BTreeMap<String, &'static str> = BTreeMap::new();
    for plugin in plugins {
        for column in plugin.plugin.columns() {
            let name = column.name.into_owned();
            if let Some(other) = taken.get(&name) {
                return Err(PluginError::Column {
                    plugin: plugin.name(),
                    column: name,
                    other,
                });
            }
            taken.insert(name, plugin.name());
        }
    }
    Ok(())
}

impl Extension {
    /// A built-in plugin by its name and options, `name[,option=value]...`.
    ///
    /// `slicer,limit=N`; `splt,length=N,size=frame|ip|transport|payload`; `dhcp`; `mdns`; `ja4`;
    /// `wavelet,levels=N,active=S`, where without `active` the native profile takes the meter's own active timeout.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn built_in(text: &str) -> Result<Self, PluginError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let options = Options(parts.filter(|p| !p.is_empty()).collect());
        Ok(match name {
            "slicer" => Slicer::from_options(&options)?.into(),
            "splt" => Splt::from_options(&options)?.into(),
            "dhcp" => options.only("dhcp", "none", &[]).map(|()| Dhcp.into())?,
            "mdns" => options.only("mdns", "none", &[]).map(|()| Mdns.into())?,
            "ja4" => options.only("ja4", "none", &[]).map(|()| Ja4.into())?,
            "wavelet" => Wavelet::from_options(&options)?.into(),
            _ => return Err(PluginError::Name(name.to_owned())),
        })
    }

    /// Name of the plugin.
    pub fn name(&self) -> &'static str {
        self.plugin.name()
    }

    pub(crate) fn attach(&mut self, meter: &MeterView) {
        self.plugin.attach(meter);
    }
}

/// `option=value` texts.
struct Options<'a>(Vec<&'a str>);

impl<'a> Options<'a> {
    fn only(
        &self,
        plugin: &'static str,
        known: &'static str,
        names: &[&str],
    ) -> Result<(), PluginError> {
        for option in &self.0 {
            let (name, _) = option.split_once('=').unwrap_or((option, ""));
            if !names.contains(&name) {
                let option = name.to_owned();
                return Err(PluginError::Option {
                    plugin,
                    option,
                    known,
                });
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find_map(|option| {
            let (n, value) = option.split_once('=').unwrap_or((option, ""));
            (n == name).then_some(value)
        })
    }

    /// A number at least 1 and at most `max`; `default` when the option is not given.
    fn number(
        &self,
        plugin: &'static str,
        option: &'static str,
        wanted: &'static str,
        max: u64,
        default: u64,
    ) -> Result<u64, PluginError> {
        let Some(text) = self.get(option) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(PluginError::Value {
                plugin,
                option,
                value: text.to_owned(),
                wanted,
            }),
        }
    }
}

/// The plugins of a meter.
#[derive(Default)]
pub struct Plugins(Vec<Extension>);

/// What all plugins keep for one flow.
pub struct States(Vec<Box<dyn Any + Send>>);

impl Plugins {
    /// Adds one at the end, whatever its columns are called; [`Plugins::try_add`] looks.
    pub fn add(&mut self, plugin: impl Into<Extension>) {
        self.0.push(plugin.into());
    }

    /// Adds one at the end unless a column of it has the name of another one.
    ///
    /// # Errors
    /// [`PluginError::Column`]; nothing is added then.
    pub fn try_add(&mut self, plugin: impl Into<Extension>) -> Result<(), PluginError> {
        let plugin = plugin.into();
        check(self.0.iter().chain([&plugin]))?;
        self.0.push(plugin);
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The columns of all, each name behind `prefix`.
    pub fn columns(&self, prefix: &str) -> Vec<Column> {
        let mut all = Vec::new();
        for extension in &self.0 {
            all.extend(extension.plugin.columns().into_iter().map(|c| Column {
                name: format!("{prefix}{}", c.name).into(),
                ..c
            }));
        }
        all
    }

    /// States of a flow that starts, and whether one of the plugins ends it at once.
    pub fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (States, Next) {
        let mut next = Next::Go;
        let mut states = Vec::with_capacity(self.0.len());
        for extension in &self.0 {
            let (state, wish) = extension.plugin.start(flow, packet);
            states.push(state);
            if wish == Next::End {
                next = Next::End;
            }
        }
        (States(states), next)
    }

    /// A later packet of a flow, and whether one of the plugins ends it.
    pub fn update(&self, states: &mut States, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        let mut next = Next::Go;
        for (extension, state) in self.0.iter().zip(&mut states.0) {
            if extension.plugin.update(state.as_mut(), flow, packet) == Next::End {
                next = Next::End;
            }
        }
        next
    }

    /// Adds the values of all columns.
    pub fn expire(&self, states: States, flow: &FlowView, row: &mut Vec<Value>) {
        for (extension, state) in self.0.iter().zip(states.0) {
            let end = row.len() + extension.columns;
            extension.plugin.expire(state, flow, row);
            row.resize(end, Value::Missing);
        }
    }
}

/// [`Plugin`] without its state type.
trait Erased: Send {
    fn name(&self) -> &'static str;
    fn attach(&mut self, meter: &MeterView);
    fn columns(&self) -> Vec<Column>;
    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (Box<dyn Any + Send>, Next);
    fn update(&self, state: &mut dyn Any, flow: &FlowView, packet: &PacketView<'_>) -> Next;
    fn expire(&self, state: Box<dyn Any + Send>, flow: &FlowView, row: &mut Vec<Value>);
}

impl<P: Plugin> Erased for P {
    fn name(&self) -> &'static str {
        Plugin::name(self)
    }

    fn attach(&mut self, meter: &MeterView) {
        Plugin::attach(self, meter);
    }

    fn columns(&self) -> Vec<Column> {
        Plugin::columns(self)
    }

    fn start(&self, flow: &FlowView, packet: &PacketView<'_>) -> (Box<dyn Any + Send>, Next) {
        let (state, next) = Plugin::start(self, flow, packet);
        (Box::new(state), next)
    }

    fn update(&self, state: &mut dyn Any, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        // States come back to the plugin that made them: the order never changes.
        state
            .downcast_mut::<P::State>()
            .map_or(Next::Go, |state| Plugin::update(self, state, flow, packet))
    }

    fn expire(&self, state: Box<dyn Any + Send>, flow: &FlowView, row: &mut Vec<Value>) {
        if let Ok(state) = state.downcast::<P::State>() {
            Plugin::expire(self, *state, flow, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Extension, PluginError, Plugins, Size, Splt, check};

    #[test]
    fn makes_built_in_plugins_from_text() {
        for text in [
            "slicer,limit=4",
            "splt,length=5,size=ip",
            "dhcp",
            "mdns",
            "ja4",
            "wavelet,levels=3,active=60",
        ] {
            let made = Extension::built_in(text).expect(text);
            assert!(text.starts_with(made.name()));
        }
    }

    #[test]
    fn columns_have_names_of_their_own() {
        let made = |texts: &[&str]| -> Vec<Extension> {
            let all = texts
                .iter()
                .map(|t| Extension::built_in(t).expect("built in"));
            all.collect()
        };
        assert_eq!(check(&made(&["slicer", "slicer", "splt", "ja4"])), Ok(()));
        let error = check(&made(&["ja4", "splt", "splt,length=3"])).expect_err("twice");
        assert!(error.to_string().contains("splt_direction"), "{error}");
        let mut plugins = Plugins::default();
        assert_eq!(
            plugins.try_add(Splt {
                length: 2,
                size: Size::Ip
            }),
            Ok(())
        );
        let error = plugins.try_add(Extension::built_in("splt").expect("built in"));
        assert!(matches!(error, Err(PluginError::Column { .. })));
        assert_eq!(plugins.columns("").len(), 3);
    }

    #[test]
    fn names_what_is_wrong_with_a_text() {
        let error = |text| Extension::built_in(text).map(|_| ()).expect_err(text);
        assert_eq!(error("slices"), PluginError::Name("slices".to_owned()));
        assert!(error("dhcp,x=1").to_string().contains("no option \"x\""));
        assert!(
            error("slicer,limit=0")
                .to_string()
                .contains("limit of plugin slicer")
        );
        assert!(
            error("splt,size=big")
                .to_string()
                .contains("frame, ip, transport or payload")
        );
        assert!(error("wavelet,levels=40").to_string().contains("levels"));
    }
}
