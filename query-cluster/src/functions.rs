//! Functions that plans call by name. Coordinator and workers have the same ones: `query`'s own code, so that a name or an
//! address is the same to both engines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use chaff_query::pattern::Pattern;
use chaff_query::request::{Matching, Name, Network};
use datafusion::arrow::array::{AsArray, BooleanArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

/// All of them.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    vec![fits(), inside()]
}

fn fits() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Fits(Signature::any(
        4,
        Volatility::Immutable,
    ))))
}

fn inside() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Inside(Signature::any(
        2,
        Volatility::Immutable,
    ))))
}

/// Whether a server name is one of those chosen; no name is not.
pub fn name_fits(column: Expr, name: &Name) -> Expr {
    let (kind, text) = match &name.matching {
        Matching::Domain(text) => ("domain", text),
        Matching::Subdomains(text) => ("subdomains", text),
        Matching::Pattern(text) => ("pattern", text),
    };
    fits().call(vec![
        column,
        lit(kind),
        lit(text.as_str()),
        lit(name.ignore_case),
    ])
}

/// Whether an address lies in one of the networks; what is no address does not.
pub fn is_inside(column: Expr, networks: &[Network]) -> Expr {
    let texts: Vec<String> = networks
        .iter()
        .map(|n| format!("{}/{}", n.first, n.length()))
        .collect();
    inside().call(vec![column, lit(texts.join(","))])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fits(Signature);

impl ScalarUDFImpl for Fits {
    fn name(&self) -> &str {
        "chaff_name_fits"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [column, kind, chosen, ignore_case] = args.args.as_slice() else {
            return Err(exec_datafusion_err!("four arguments"));
        };
        let chosen = text(chosen)?;
        let matching = match text(kind)?.as_str() {
            "domain" => Matching::Domain(chosen),
            "subdomains" => Matching::Subdomains(chosen),
            "pattern" => Matching::Pattern(chosen),
            other => return Err(exec_datafusion_err!("no choice of names is called {other}")),
        };
        let ColumnarValue::Scalar(ScalarValue::Boolean(Some(ignore_case))) = ignore_case else {
            return Err(exec_datafusion_err!("whether case counts must be given"));
        };
        let pattern = Pattern::new(&Name {
            matching,
            ignore_case: *ignore_case,
        });
        each(column, args.number_rows, |name| pattern.fits(name))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Inside(Signature);

impl ScalarUDFImpl for Inside {
    fn name(&self) -> &str {
        "chaff_is_inside"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [column, networks] = args.args.as_slice() else {
            return Err(exec_datafusion_err!("two arguments"));
        };
        let networks: Vec<Network> = text(networks)?
            .split(',')
            .map(str::parse)
            .collect::<Result<_, String>>()
            .map_err(|why| exec_datafusion_err!("{why}"))?;
        each(column, args.number_rows, |address| {
            address
                .parse::<IpAddr>()
                .is_ok_and(|a| networks.iter().any(|n| n.contains(a)))
        })
    }
}

fn text(value: &ColumnarValue) -> Result<String> {
    match value {
        ColumnarValue::Scalar(value) => value.try_as_str().flatten().map(str::to_owned),
        ColumnarValue::Array(_) => None,
    }
    .ok_or_else(|| exec_datafusion_err!("a constant text must be given"))
}

/// Tries each text of a column, equal ones once.
fn each(
    column: &ColumnarValue,
    rows: usize,
    mut test: impl FnMut(&str) -> bool,
) -> Result<ColumnarValue> {
    let array = cast(&column.to_array(rows)?, &DataType::Utf8View)?;
    let mut known: HashMap<&str, bool> = HashMap::new();
    let out: BooleanArray = array
        .as_string_view()
        .iter()
        .map(|text| Some(text.is_some_and(|t| *known.entry(t).or_insert_with(|| test(t)))))
        .collect();
    Ok(ColumnarValue::Array(Arc::new(out)))
}
