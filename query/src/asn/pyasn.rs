//! pyasn's text files.

use crate::request::Network;

/// Prefixes and numbers. Lines that start with `;` or `#` are comments.
pub(super) fn prefixes(bytes: &[u8]) -> Result<Vec<(Network, u32)>, String> {
    let mut out = Vec::new();
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') || line.starts_with('#') {
            continue;
        }
        let wrong = |why: String| format!("line {}: {why}", index + 1);
        let (prefix, asn) = line
            .split_once('\t')
            .ok_or_else(|| wrong("expected prefix, tabulator, number".to_owned()))?;
        let network: Network = prefix.trim().parse().map_err(wrong)?;
        let asn = asn
            .trim()
            .parse()
            .map_err(|_| wrong(format!("{asn}: not the number of an autonomous system")))?;
        out.push((network, asn));
    }
    Ok(out)
}
