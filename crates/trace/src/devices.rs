//! The list of devices that goes with captures.

use std::net::IpAddr;

use chaff_abi::Mac;

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Number of the line, from 1.
    pub line: usize,
    /// Column `device`.
    pub name: String,
    /// Column `label`; the name where there is none.
    pub label: String,
    /// Column `mac`.
    pub mac: Option<Mac>,
    /// Column `ip`.
    pub ips: Vec<IpAddr>,
}

/// Why a list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The first line is not a header.
    #[error(
        "line {line}: no column {missing} in {found:?}; wanted a comma-separated header such as device,mac,ip,label"
    )]
    Header {
        /// Number of the line, from 1.
        line: usize,
        /// What is needed.
        missing: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field cannot be read.
    #[error("line {line}: {column} is {found:?}, not {want}")]
    Value {
        /// Number of the line, from 1.
        line: usize,
        /// Name of the column.
        column: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        want: &'static str,
    },
}

/// Reads a comma-separated list with a header that names `device`, at least one of `mac` and `ip`, and may name `label`, in any
/// order; other columns are passed over. Several IP addresses are separated by `;` or spaces; nothing or `-` is no address.
/// Empty lines and lines that begin with `#` are passed over; there is no quoting. Whether names may be empty or repeated, and
/// whether a device needs an address, is for the caller to say.
///
/// # Errors
/// [`ListError`] with the line.
pub fn read_devices(text: &str) -> Result<Vec<Listed>, ListError> {
    let mut lines = (1..)
        .zip(text.trim_start_matches('\u{feff}').lines())
        .filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    let (line, header) = lines.next().unwrap_or((1, ""));
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |name: &str| columns.iter().position(|c| *c == name);
    let missing = |missing| ListError::Header {
        line,
        missing,
        found: header.to_owned(),
    };
    let (device, label) = (column("device"), column("label"));
    let (mac, ip) = (column("mac"), column("ip"));
    if device.is_none() {
        return Err(missing("`device`"));
    }
    if mac.is_none() && ip.is_none() {
        return Err(missing("`mac` or `ip`"));
    }
    lines
        .map(|(line, text)| {
            let cells: Vec<&str> = text.split(',').map(str::trim).collect();
            let cell = |at: Option<usize>| at.and_then(|at| cells.get(at)).copied().unwrap_or("");
            let address = |at| match cell(at) {
                "-" => "",
                text => text,
            };
            let not = |column, found: &str, want| ListError::Value {
                line,
                column,
                found: found.to_owned(),
                want,
            };
            let mac = match address(mac) {
                "" => None,
                text => Some(
                    text.parse()
                        .map_err(|_| not("mac", text, "a MAC address such as 02:00:5e:10:00:01"))?,
                ),
            };
            let ips = address(ip)
                .split([';', ' '])
                .filter(|t| !t.is_empty())
                .map(|t| {
                    t.parse().map_err(|_| {
                        not(
                            "ip",
                            t,
                            "an IP address; several are separated by `;` or spaces",
                        )
                    })
                })
                .collect::<Result<_, _>>()?;
            let name = cell(device).to_owned();
            let label = match cell(label) {
                "" => name.clone(),
                text => text.to_owned(),
            };
            Ok(Listed {
                line,
                name,
                label,
                mac,
                ips,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "\u{feff}# of the house\n\nlabel,mac,device,ip,room\r\n\
            cam,02-00-00-00-00-01,cam 1,10.0.0.1;fe80::1 10.0.0.2,hall\n\
            # a comment\n,-,cam 2,-\n,,cam 3\n";
        let list = read_devices(text).expect("valid");
        let short: Vec<_> = list
            .iter()
            .map(|d| (d.line, &*d.name, &*d.label, d.mac.is_some(), d.ips.len()))
            .collect();
        assert_eq!(
            short,
            [
                (4, "cam 1", "cam", true, 3),
                (6, "cam 2", "cam 2", false, 0),
                (7, "cam 3", "cam 3", false, 0),
            ]
        );
        assert_eq!(read_devices("device,ip\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, want) in [
            ("", "line 1: no column `device` in \"\""),
            ("name,mac\n", "line 1: no column `device` in \"name,mac\""),
            (
                "device;mac\n",
                "line 1: no column `device` in \"device;mac\"",
            ),
            (
                "#\ndevice,label\n",
                "line 2: no column `mac` or `ip` in \"device,label\"",
            ),
            (
                "device,mac\nx,zz\n",
                "line 2: mac is \"zz\", not a MAC address such as",
            ),
            (
                "device,ip\n\nx,1.2.3;\n",
                "line 3: ip is \"1.2.3\", not an IP address",
            ),
        ] {
            let said = read_devices(text).expect_err("refused").to_string();
            assert!(said.starts_with(want), "{text:?}: {said}");
        }
    }
}
