//! Labels of flows from a file with the columns of CIC-IDS2017.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{FeatureError, Key};

/// Which directed flows are known, and which of them are attacks.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    known: HashMap<Key, bool>,
}

impl Labels {
    /// Reads a comma-separated file with a header line. The columns ` Source IP`, ` Destination IP`, ` Source Port`,
    /// ` Destination Port`, ` Protocol` and ` Label` are found by name, blanks around a name do not matter. A label of
    /// `benign` or `normal` in any case is no attack, every other is. The last line of a key wins; lines whose addresses
    /// are not IPv4 cannot match a flow and are passed over.
    ///
    /// # Errors
    /// [`FeatureError::LabelColumn`] and [`FeatureError::LabelLine`].
    pub fn parse(text: &str) -> Result<Self, FeatureError> {
        let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let header: Vec<String> = lines.next().map(|(_, l)| fields(l)).unwrap_or_default();
        let column = |name: &'static str| {
            header
                .iter()
                .position(|h| h.trim() == name)
                .ok_or(FeatureError::LabelColumn { name })
        };
        let source = column("Source IP")?;
        let destination = column("Destination IP")?;
        let source_port = column("Source Port")?;
        let destination_port = column("Destination Port")?;
        let protocol = column("Protocol")?;
        let label = column("Label")?;
        let mut known = HashMap::new();
        for (index, line) in lines {
            if line.is_empty() {
                continue;
            }
            let row = fields(line);
            let get = |at: usize| {
                row.get(at)
                    .map(String::as_str)
                    .ok_or_else(|| FeatureError::LabelLine {
                        line: index + 1,
                        reason: format!("{} fields where {} are needed", row.len(), at + 1),
                    })
            };
            let number = |at: usize, limit: f64| {
                let text = get(at)?;
                let value: f64 = text.trim().parse().unwrap_or(f64::NAN);
                if value >= 0.0 && value <= limit {
                    Ok(value)
                } else {
                    Err(FeatureError::LabelLine {
                        line: index + 1,
                        reason: format!("`{text}` is no port or protocol number"),
                    })
                }
            };
            let addresses = (
                get(source)?.parse::<Ipv4Addr>(),
                get(destination)?.parse::<Ipv4Addr>(),
            );
            let (Ok(source), Ok(destination)) = addresses else {
                continue;
            };
            let key = Key::Flow {
                source,
                destination,
                source_port: number(source_port, 65535.0)? as u16,
                destination_port: number(destination_port, 65535.0)? as u16,
                protocol: number(protocol, 255.0)? as u8,
            };
            let name = get(label)?.to_ascii_uppercase();
            known.insert(key, !matches!(name.as_str(), "BENIGN" | "NORMAL"));
        }
        Ok(Self { known })
    }

    /// Whether the flow is an attack; `None` when the file does not name it in this direction.
    pub fn is_attack(&self, key: &Key) -> Option<bool> {
        self.known.get(key).copied()
    }

    /// Flows that are named.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Fields of a line; a quoted field may hold commas, and `""` in it is a quote.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        let field = out.last_mut();
        match (c, field) {
            ('"', Some(field)) if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => out.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => (),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_of_a_key_wins_and_direction_matters() {
        let text = "\u{feff}id, Source IP, Source Port, Destination IP, Destination Port, Protocol, Label\n\
                    \"a,b\",10.0.0.1,5,10.0.0.2,80,6,BENIGN\r\n\
                    x,10.0.0.1,5,10.0.0.2,80,6,Bot\n\
                    y,::1,5,::2,80,6,Bot\n";
        let labels = Labels::parse(text).unwrap();
        let key = |a, b, sp, dp| Key::Flow {
            source: Ipv4Addr::new(10, 0, 0, a),
            destination: Ipv4Addr::new(10, 0, 0, b),
            source_port: sp,
            destination_port: dp,
            protocol: 6,
        };
        assert_eq!(labels.len(), 1);
        assert_eq!(labels.is_attack(&key(1, 2, 5, 80)), Some(true));
        assert_eq!(labels.is_attack(&key(2, 1, 80, 5)), None);
    }

    #[test]
    fn says_what_is_missing() {
        assert_eq!(
            Labels::parse("a,b\n").unwrap_err(),
            FeatureError::LabelColumn { name: "Source IP" }
        );
        let head = "Source IP,Source Port,Destination IP,Destination Port,Protocol,Label\n";
        let error = Labels::parse(&format!("{head}1.1.1.1,x,1.1.1.2,3,6,Bot\n")).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
