//! Values as text: what every table of flows in text is made of, whoever writes it.

mod number;
mod value;

pub use number::{
    push_float, push_hex, push_ip, push_mac, push_python_float, push_signed, push_unsigned,
};
pub use value::{Style, push_cell, push_json, push_json_text, push_value, quote};
