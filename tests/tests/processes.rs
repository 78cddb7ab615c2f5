//! The process behind each flow, in the records of the live gateway after it gave its privileges up.

use anyhow::{Context as _, Result, ensure};
use chaff_flow::Record;
use chaff_tests::stage::{Stage, rows};
use chaff_tests::{SINK, fixture, skip_without_root};

/// Runs a gateway while a client says a word; gives the header of the flow records, the row of the client's flow, and the
/// client's process id.
fn word(stage: &mut Stage, port: u16, flows: &str) -> Result<(Vec<String>, Vec<String>, u32)> {
    stage.start_gateway(&fixture("devices.csv")?, "generator = \"none\"", flows)?;
    let mut client = stage
        .home
        .in_home("bash")
        .args(["-c", &format!("echo word >/dev/udp/{SINK}/{port}")])
        .spawn()?;
    let pid = client.id();
    ensure!(client.wait()?.success(), "the client failed");
    stage.stop_gateway()?;
    let (header, lines) = rows(&stage.state("flows.csv"))?;
    let at = header.iter().position(|h| h == "dst_port");
    let at = at.context("no column dst_port")?;
    let row = lines.into_iter().find(|l| l[at] == port.to_string());
    Ok((header, row.context("no record of the client's flow")?, pid))
}

#[test]
fn a_client_of_a_moment_is_named_by_the_running_gateway() -> Result<()> {
    if skip_without_root("a_client_of_a_moment_is_named_by_the_running_gateway") {
        return Ok(());
    }
    let mut stage = Stage::new("owners")?;
    // Nobody answers ARP on this wire.
    let neighbour = format!("neigh add {SINK} lladdr 02:00:00:00:00:99 dev dev0");
    for line in ["addr add 10.99.0.9/24 dev dev0", &neighbour] {
        let words = line.split(' ');
        ensure!(stage.home.in_home("ip").args(words).status()?.success());
    }
    stage.start_sink()?;
    // Off, as by default: the columns are the core ones.
    let (header, row, _) = word(&mut stage, 9_001, "")?;
    ensure!(header.join(",") == Record::csv_header(), "{header:?}");
    ensure!(row.len() == header.len(), "{row:?}");
    let (header, row, pid) = word(&mut stage, 9_002, "[flows]\nprocesses = true\n")?;
    let wanted = format!("{},process_id,process_name", Record::csv_header());
    ensure!(header.join(",") == wanted, "{header:?}");
    let n = header.len();
    ensure!(row[n - 2..] == [pid.to_string(), "bash".into()], "{row:?}");
    Ok(())
}
