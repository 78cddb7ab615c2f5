//! A request as a typed plan: what each address of the protected side adds up to. No text of a user is ever part of a plan's
//! code; it is a constant in it.

use std::sync::Arc;

use chaff_query::flows::{Direction, Format, Kind};
use chaff_query::request::{Measure, Network, Request, UnitKey};
use chaff_query::sums::column_kind;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, cast, lit, when};
use datafusion::prelude::DataFrame;

use crate::functions::{is_inside, name_fits};

/// Columns of a plan's result.
pub const KEY: &str = "chaff_key";
/// Sum of values.
pub const SUM: &str = "chaff_sum";
/// Number of flows.
pub const COUNT: &str = "chaff_count";
/// Server name.
pub const NAME: &str = "chaff_name";

/// Numbers that are not whole are summed in steps of 10^-6, and cut at 10^28 of them, as in `chaff_query::sums::whole`.
const STEPS: f64 = 1e6;
const MOST: f64 = 1e28;

/// The columns that stand for the parts of a flow, seen from the protected side.
#[derive(Clone, Debug)]
pub struct Roles {
    user: &'static str,
    peer: Option<&'static str>,
    value: Option<(String, Kind)>,
    name: Option<&'static str>,
    mac: Option<&'static str>,
    /// Columns that say whose flow it is, with what they must hold.
    labels: Vec<(&'static str, i64)>,
}

impl Roles {
    /// Those of a request about logs of a format.
    pub fn new(format: Format, request: &Request) -> Self {
        let roles = format.roles();
        let outgoing = request.direction == Direction::Outgoing;
        let side = |client, server| if outgoing { client } else { server };
        let wants: &[i64] = match (format, outgoing) {
            (Format::Tstat, true) => &[1, 0],
            (Format::Tstat, false) => &[0, 1],
            (_, true) => &[1],
            (_, false) => &[0],
        };
        let labels = if request.home.is_empty() {
            roles
                .labels
                .iter()
                .copied()
                .zip(wants.iter().copied())
                .collect()
        } else {
            Vec::new()
        };
        let filter = &request.filter;
        let needs_peer = filter.ip.is_some() || filter.asn.is_some() || !request.home.is_empty();
        let named = request.filter.name.is_some() || request.measure == Measure::Names;
        Self {
            user: side(roles.client, roles.server),
            peer: needs_peer.then(|| side(roles.server, roles.client)),
            value: match &request.measure {
                Measure::Bytes(_) => Some((request.bytes_column(format).to_owned(), Kind::Integer)),
                Measure::Mean(column) => Some((column.clone(), column_kind(format, request))),
                Measure::Flows | Measure::Any | Measure::Names => None,
            },
            name: roles.domain.filter(|_| named),
            mac: roles
                .macs
                .filter(|_| request.unit == UnitKey::Mac)
                .map(|[client, server]| side(client, server)),
            labels,
        }
    }

    /// The columns as a plan reads them, whatever integers or texts the files hold them in.
    pub fn schema(&self, format: Format) -> SchemaRef {
        let mut fields = vec![text_field(self.user)];
        fields.extend(self.peer.map(text_field));
        if let Some((name, kind)) = &self.value {
            let kind = match kind {
                Kind::Float => DataType::Float64,
                _ => DataType::Int64,
            };
            fields.push(Field::new(name, kind, true));
        }
        fields.extend(self.name.map(text_field));
        fields.extend(self.mac.map(text_field));
        for (label, _) in &self.labels {
            let kind = format.columns().iter().find(|c| c.name == *label);
            fields.push(match kind.map(|c| c.kind) {
                Some(Kind::Text) => text_field(label),
                _ => Field::new(*label, DataType::Int64, true),
            });
        }
        let mut known = Vec::new();
        fields.retain(|f| {
            let new = !known.contains(f.name());
            known.push(f.name().clone());
            new
        });
        Arc::new(Schema::new(fields))
    }

    /// The flows of the protected side.
    fn belongs(&self, schema: &Schema, request: &Request) -> Expr {
        let user = column(self.user);
        let known = user.clone().is_not_null().and(user.clone().not_eq(lit("")));
        if let (Some(peer), false) = (self.peer, request.home.is_empty()) {
            let peer = column(peer);
            return known
                .and(is_inside(user, &request.home))
                .and(peer.clone().is_not_null())
                .and(datafusion::logical_expr::not(is_inside(
                    peer,
                    &request.home,
                )));
        }
        self.labels.iter().fold(known, |all, (label, want)| {
            let is_text = schema
                .field_with_name(label)
                .is_ok_and(|f| *f.data_type() == DataType::Utf8View);
            all.and(if is_text {
                // Chaff writes words.
                let words = if *want == 1 {
                    ["out", "1"]
                } else {
                    ["in", "0"]
                };
                column(label).in_list(words.map(lit).to_vec(), false)
            } else {
                column(label).eq(lit(*want))
            })
        })
    }

    /// Those of them that are counted. `peers` are the addresses of the autonomous system asked for.
    fn counts(&self, request: &Request, peers: Option<&[String]>) -> Expr {
        let mut all = lit(true);
        if let (Some(peer), Some(ip)) = (self.peer, request.filter.ip) {
            let peer = column(peer);
            all = all.and(match Network::new(ip, 128) {
                // Other programs write addresses of IPv6 in other ways.
                Some(alone) => is_inside(peer, &[alone]),
                None => peer.eq(lit(ip.to_string())),
            });
        }
        if let (Some(peer), Some(peers)) = (self.peer, peers) {
            let peers = peers.iter().map(|p| lit(p.as_str())).collect();
            all = all.and(column(peer).in_list(peers, false));
        }
        if let (Some(name), Some(chosen)) = (self.name, &request.filter.name) {
            all = all.and(name_fits(column(name), chosen));
        }
        all
    }

    /// Sums and numbers of counted flows of each address; addresses without one are in it too. For names: of each pair of
    /// an address and a name.
    ///
    /// # Errors
    /// The engine's, which may show rows.
    pub fn plan(
        &self,
        flows: DataFrame,
        request: &Request,
        peers: Option<&[String]>,
    ) -> Result<DataFrame> {
        let belongs = self.belongs(flows.schema().as_arrow(), request);
        let flows = flows.filter(belongs)?;
        let counts = self.counts(request, peers);
        let key = match self.mac {
            Some(mac) => when(column(mac).is_null(), lit("")).otherwise(column(mac))?,
            None => column(self.user),
        };
        let key = cast(key, DataType::Utf8View).alias(KEY);
        if request.measure == Measure::Names {
            let name = self.name.map_or_else(|| lit(""), column);
            let none = ["", "-"].map(lit).to_vec();
            let named = name
                .clone()
                .is_not_null()
                .and(name.clone().in_list(none, true));
            return flows.filter(counts.and(named))?.aggregate(
                vec![key, name.alias(NAME)],
                vec![count(lit(1)).alias(COUNT)],
            );
        }
        let counted = |value: Expr| when(counts.clone(), value).end();
        let mut totals = Vec::new();
        let flow = match &self.value {
            Some((name, kind)) => {
                let value = column(name);
                let whole = match kind {
                    Kind::Float => steps(value)?,
                    _ => cast(value, DataType::Decimal128(20, 0)),
                };
                totals.push(sum(counted(whole.clone())?).alias(SUM));
                whole
            }
            None => lit(1),
        };
        totals.push(count(counted(flow)?).alias(COUNT));
        flows.aggregate(vec![key], totals)
    }

    /// The addresses that flows of the protected side have on their other end.
    ///
    /// # Errors
    /// The engine's, which may show rows.
    pub fn peers(&self, flows: DataFrame, request: &Request) -> Result<DataFrame> {
        let belongs = self.belongs(flows.schema().as_arrow(), request);
        let Some(peer) = self.peer.map(column) else {
            return flows.filter(lit(false))?.select(vec![lit("").alias(KEY)]);
        };
        flows
            .filter(belongs.and(peer.clone().is_not_null()))?
            .aggregate(vec![cast(peer, DataType::Utf8View).alias(KEY)], Vec::new())
    }
}

fn text_field(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
}

/// By its exact name: `col` would read points and fold case.
fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// A number in whole steps; none where it is not finite.
fn steps(value: Expr) -> Result<Expr> {
    let finite = value
        .clone()
        .gt_eq(lit(f64::MIN))
        .and(value.clone().lt_eq(lit(f64::MAX)));
    let scaled = value * lit(STEPS);
    let within = when(scaled.clone().gt(lit(MOST)), lit(MOST))
        .when(scaled.clone().lt(lit(-MOST)), lit(-MOST))
        .otherwise(scaled)?;
    // The cast rounds halves away from zero, as `f64::round` does.
    when(finite, cast(within, DataType::Decimal128(38, 0))).end()
}
