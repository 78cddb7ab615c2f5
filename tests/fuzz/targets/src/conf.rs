//! `wg`-style configuration files ([`chaff_tunnel::conf`]): what users and providers write.
//!
//! Input: the text of a file.
//!
//! - A file that is read is written in a form that reads back as the same, and is written the same again.
//! - An error names a line that the file has, and never holds a key.

use chaff_tunnel::conf::{Conf, ConfError};
use chaff_tunnel::{Prefix, PrivateKey, PublicKey};

use crate::Seeds;

/// See the module.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for word in text.split_whitespace() {
        if let Ok(prefix) = word.parse::<Prefix>() {
            assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
        if let Ok(key) = word.parse::<PublicKey>() {
            assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        }
    }
    match text.parse::<Conf>() {
        Ok(conf) => {
            let written = conf.reveal();
            let again: Conf = written.parse().unwrap();
            assert_eq!(*again.reveal(), *written);
            assert_eq!(again.addresses, conf.addresses);
            assert_eq!(again.peers.len(), conf.peers.len());
            for (a, b) in again.peers.iter().zip(&conf.peers) {
                assert_eq!((&a.endpoint, &a.allowed), (&b.endpoint, &b.allowed));
                assert_eq!(a.public_key, b.public_key);
            }
        }
        Err(e) => {
            if let ConfError::Line { line, .. } = &e {
                assert!((1..=text.lines().count()).contains(line));
            }
            let said = e.to_string();
            let secret = |w: &&str| w.parse::<PrivateKey>().is_ok();
            let told = text
                .split_whitespace()
                .filter(secret)
                .find(|w| said.contains(w));
            assert!(told.is_none(), "{said}");
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    // Made for this; nobody uses them.
    let private = "eC6lx91SxPj5TgBj7gGdMRlr9Lwie3VvH07fGIUa0EY=";
    let public = "SjW7Kjvwda+RakrQe8hAqH65cl3mRxOW4fIhhfYWsD0=";
    let home = format!(
        "[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.2/32, fd07::2/128\nMTU = 1380\nDNS = 10.7.0.1\n\
         \n[Peer]\nPublicKey = {public}\nPresharedKey = {public}\nAllowedIPs = 0.0.0.0/0, ::/0\n\
         Endpoint = vpn.example.net:51820\nPersistentKeepalive = 25\n"
    );
    let far = format!(
        "# far end\n[interface]\nprivatekey={private}\nlistenport=51820\naddress=10.7.0.1/24\n[peer]\npublickey={public}\n\
         allowedips=10.7.0.2\n[Peer]\nPublicKey = {private}\nAllowedIPs = fd07::3/128\nEndpoint = [2001:db8::7]:1\n"
    );
    let wrong =
        format!("[Interface]\nPrivateKey = {public}x\n[Peer]\nAllowedIPs = 10.0.0.0/33\n[Else]\n");
    [("home", home), ("far", far), ("wrong", wrong)]
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .to_vec()
}
