//! Writes one small table in every file format: `cargo run -p chaff-export --example sample -- FOLDER [FLOWS]`.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use chaff_export::{Csv, Dialect, JsonLines, Output, Parquet, ParquetOptions, WholeFile};

#[path = "../tests/table/mod.rs"]
mod table;
use table::{columns, row};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let flows = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let (folder, columns) = (Path::new(&folder), columns());
    let outputs: [Box<dyn Output>; 4] = [
        Box::new(Csv::new(
            File::create(folder.join("native.csv"))?,
            &columns,
            Dialect::Native,
        )),
        Box::new(Csv::new(
            File::create(folder.join("nfstream.csv"))?,
            &columns,
            Dialect::NfStream,
        )),
        Box::new(JsonLines::new(
            File::create(folder.join("flows.jsonl"))?,
            &columns,
        )),
        Box::new(Parquet::new(
            WholeFile::create(&folder.join("flows.parquet"))?,
            &columns,
            &ParquetOptions::default(),
        )?),
    ];
    for mut output in outputs {
        for n in 0..flows {
            output.write(&row(n))?;
        }
        output.finish()?;
    }
    Ok(())
}
