//! Tables of flow features as comma-separated text.

use std::io::{self, Write};

use chaff_flow::features::Matrix;
use chaff_flow::features::netml::{Flow, Key};

/// Writes netml flows with their features: `src_ip,dst_ip,src_port,dst_port,proto,start_time,f0,f1,...`, the time in
/// seconds since the epoch. The flow of everything without an IPv4 header has empty addresses and -1 for the numbers.
/// Numbers are written so that they read back exactly.
///
/// # Errors
/// Those of `out`.
pub fn write_netml(out: &mut impl Write, flows: &[Flow], matrix: &Matrix) -> io::Result<()> {
    write!(out, "src_ip,dst_ip,src_port,dst_port,proto,start_time")?;
    for i in 0..matrix.columns {
        write!(out, ",f{i}")?;
    }
    writeln!(out)?;
    for (i, flow) in flows.iter().enumerate() {
        match flow.key {
            Key::Flow {
                source,
                destination,
                source_port,
                destination_port,
                protocol,
            } => write!(
                out,
                "{source},{destination},{source_port},{destination_port},{protocol}"
            )?,
            Key::Pooled => write!(out, ",,-1,-1,-1")?,
        }
        write!(out, ",{}", flow.start_s())?;
        for value in matrix.row(i) {
            write!(out, ",{value}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
