//! What workers sent, as the table that `query`'s own engine makes.

use chaff_query::cell::address;
use chaff_query::plain::network;
use chaff_query::request::{Measure, Request, UnitKey};
use chaff_query::sums::{Sums, column_kind, table};
use chaff_query::{Databases, Format, Table};
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use datafusion::common::{Result, exec_datafusion_err};

use crate::plan::{COUNT, KEY, NAME, SUM};

/// Adds up addresses to units.
pub(crate) fn of_units(
    batches: &[RecordBatch],
    format: Format,
    request: &Request,
    databases: &Databases,
) -> Result<Table> {
    let mut sums = Sums::new();
    for batch in batches {
        let keys = texts(batch, KEY)?;
        let names = match request.measure {
            Measure::Names => Some(texts(batch, NAME)?),
            _ => None,
        };
        let counts = batch.column_by_name(COUNT).ok_or_else(lost)?;
        let counts = counts.as_primitive_opt::<Int64Type>().ok_or_else(lost)?;
        let totals = match batch.column_by_name(SUM) {
            Some(column) => Some(
                column
                    .as_primitive_opt::<Decimal128Type>()
                    .ok_or_else(lost)?,
            ),
            None => None,
        };
        for row in 0..batch.num_rows() {
            let unit = unit(keys.value(row), request, databases);
            let known = sums.entry(unit).or_default();
            let flows = u64::try_from(counts.value(row)).map_err(|_| lost())?;
            match &names {
                Some(names) => {
                    *known.names.entry(names.value(row).to_owned()).or_default() += flows
                }
                None => known.count += flows,
            }
            if let Some(totals) = totals.filter(|t| t.is_valid(row)) {
                known.sum += totals.value(row);
            }
        }
    }
    Ok(table(sums, &request.measure, column_kind(format, request)))
}

/// The texts of a plan of addresses only.
pub(crate) fn keys(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for batch in batches {
        let texts = texts(batch, KEY)?;
        all.extend(texts.iter().flatten().map(str::to_owned));
    }
    Ok(all)
}

fn texts(batch: &RecordBatch, name: &str) -> Result<StringViewArray> {
    let column = batch.column_by_name(name).ok_or_else(lost)?;
    let column = cast(column, &DataType::Utf8View)?;
    Ok(column.as_string_view_opt().ok_or_else(lost)?.clone())
}

fn unit(key: &str, request: &Request, databases: &Databases) -> String {
    if request.unit == UnitKey::Mac {
        return key.to_owned();
    }
    let address = address(key.as_bytes()).unwrap_or_default();
    match (request.unit, &databases.units) {
        (UnitKey::Network, _) => network(&address),
        (UnitKey::Listed, Some(units)) => units.of(&address).to_owned(),
        _ => address.into_owned(),
    }
}

fn lost() -> datafusion::common::DataFusionError {
    exec_datafusion_err!("a column of the result is missing or of another type")
}
