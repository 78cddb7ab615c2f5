//! To which well-known network an IPv4 address belongs, when nothing else tells.
//!
//! Networks as their owners publish them; the large clouds only in outline.

use std::net::IpAddr;

use super::names::App;

/// First address, bits of the network, name and category. In order of starts; a network inside another comes after it.
static NETWORKS: [([u8; 4], u32, &str, &str); 241] = [
    ([3, 0, 0, 0], 9, "AWS_EC2", "Cloud"),
    ([3, 7, 35, 0], 25, "Zoom", "Video"),
    ([3, 128, 0, 0], 9, "AWS_EC2", "Cloud"),
    ([5, 45, 192, 0], 18, "Yandex", "Web"),
    ([5, 255, 192, 0], 18, "Yandex", "Web"),
    ([8, 8, 4, 0], 24, "Google", "Web"),
    ([8, 8, 8, 0], 24, "Google", "Web"),
    ([13, 32, 0, 0], 15, "AWS_Cloudfront", "Cloud"),
    ([13, 35, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([13, 48, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([13, 52, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([13, 56, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([13, 64, 0, 0], 11, "Azure", "Cloud"),
    ([13, 96, 0, 0], 13, "Azure", "Cloud"),
    ([13, 104, 0, 0], 14, "Azure", "Cloud"),
    ([13, 112, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([13, 124, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([13, 208, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([13, 224, 0, 0], 14, "AWS_Cloudfront", "Cloud"),
    ([13, 228, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([13, 232, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([13, 244, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([17, 0, 0, 0], 8, "Apple", "Web"),
    ([18, 64, 0, 0], 14, "AWS_Cloudfront", "Cloud"),
    ([18, 128, 0, 0], 9, "AWS_EC2", "Cloud"),
    ([20, 0, 0, 0], 8, "Azure", "Cloud"),
    ([23, 20, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([23, 96, 0, 0], 13, "Azure", "Cloud"),
    ([23, 246, 0, 0], 18, "NetFlix", "Video"),
    ([31, 13, 24, 0], 21, "Facebook", "SocialNetwork"),
    ([31, 13, 64, 0], 18, "Facebook", "SocialNetwork"),
    ([34, 0, 0, 0], 9, "GoogleCloud", "Cloud"),
    ([34, 128, 0, 0], 10, "GoogleCloud", "Cloud"),
    ([34, 192, 0, 0], 10, "AWS_EC2", "Cloud"),
    ([35, 152, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([35, 160, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([35, 176, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([35, 184, 0, 0], 13, "GoogleCloud", "Cloud"),
    ([35, 192, 0, 0], 12, "GoogleCloud", "Cloud"),
    ([35, 208, 0, 0], 12, "GoogleCloud", "Cloud"),
    ([35, 224, 0, 0], 12, "GoogleCloud", "Cloud"),
    ([35, 240, 0, 0], 13, "GoogleCloud", "Cloud"),
    ([37, 9, 64, 0], 18, "Yandex", "Web"),
    ([37, 77, 184, 0], 21, "NetFlix", "Video"),
    ([40, 64, 0, 0], 10, "Azure", "Cloud"),
    ([44, 192, 0, 0], 10, "AWS_EC2", "Cloud"),
    ([45, 57, 0, 0], 17, "NetFlix", "Video"),
    ([45, 64, 40, 0], 22, "Facebook", "SocialNetwork"),
    ([46, 51, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([46, 137, 0, 0], 16, "AWS_EC2", "Cloud"),
    ([47, 52, 0, 0], 16, "Alibaba", "Web"),
    ([47, 74, 0, 0], 15, "Alibaba", "Web"),
    ([47, 88, 0, 0], 14, "Alibaba", "Web"),
    ([50, 16, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([50, 239, 202, 0], 23, "Zoom", "Video"),
    ([50, 239, 204, 0], 24, "Zoom", "Video"),
    ([51, 104, 0, 0], 15, "Azure", "Cloud"),
    ([51, 124, 0, 0], 16, "Azure", "Cloud"),
    ([51, 136, 0, 0], 15, "Azure", "Cloud"),
    ([51, 140, 0, 0], 14, "Azure", "Cloud"),
    ([52, 0, 0, 0], 11, "AWS_EC2", "Cloud"),
    ([52, 32, 0, 0], 11, "AWS_EC2", "Cloud"),
    ([52, 64, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([52, 84, 0, 0], 15, "AWS_Cloudfront", "Cloud"),
    ([52, 86, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([52, 88, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([52, 112, 0, 0], 15, "Teams", "Collaborative"),
    ([52, 114, 0, 0], 15, "Azure", "Cloud"),
    ([52, 122, 0, 0], 15, "Teams", "Collaborative"),
    ([52, 136, 0, 0], 13, "Azure", "Cloud"),
    ([52, 145, 0, 0], 16, "Azure", "Cloud"),
    ([52, 146, 0, 0], 15, "Azure", "Cloud"),
    ([52, 148, 0, 0], 14, "Azure", "Cloud"),
    ([52, 152, 0, 0], 13, "Azure", "Cloud"),
    ([52, 160, 0, 0], 11, "Azure", "Cloud"),
    ([52, 192, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([52, 208, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([52, 216, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([52, 220, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([52, 224, 0, 0], 11, "Azure", "Cloud"),
    ([54, 64, 0, 0], 11, "AWS_EC2", "Cloud"),
    ([54, 144, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([54, 160, 0, 0], 11, "AWS_EC2", "Cloud"),
    ([54, 182, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([54, 192, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([54, 193, 0, 0], 16, "AWS_EC2", "Cloud"),
    ([54, 194, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([54, 196, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([54, 200, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([54, 208, 0, 0], 12, "AWS_EC2", "Cloud"),
    ([54, 224, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([54, 228, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([54, 230, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([54, 232, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([54, 234, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([54, 236, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([54, 239, 128, 0], 18, "AWS_Cloudfront", "Cloud"),
    ([54, 240, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([54, 248, 0, 0], 13, "AWS_EC2", "Cloud"),
    ([64, 120, 128, 0], 17, "NetFlix", "Video"),
    ([64, 233, 160, 0], 19, "Google", "Web"),
    ([66, 22, 192, 0], 18, "Discord", "Collaborative"),
    ([66, 102, 0, 0], 20, "Google", "Web"),
    ([66, 197, 128, 0], 17, "NetFlix", "Video"),
    ([66, 220, 144, 0], 20, "Facebook", "SocialNetwork"),
    ([66, 249, 64, 0], 19, "Google", "Web"),
    ([67, 202, 0, 0], 18, "AWS_EC2", "Cloud"),
    ([69, 63, 176, 0], 20, "Facebook", "SocialNetwork"),
    ([69, 171, 224, 0], 19, "Facebook", "SocialNetwork"),
    ([69, 195, 160, 0], 19, "Twitter", "SocialNetwork"),
    ([72, 14, 192, 0], 18, "Google", "Web"),
    ([72, 44, 32, 0], 19, "AWS_EC2", "Cloud"),
    ([74, 119, 76, 0], 22, "Facebook", "SocialNetwork"),
    ([74, 125, 0, 0], 16, "Google", "Web"),
    ([75, 101, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([77, 88, 0, 0], 18, "Yandex", "Web"),
    ([79, 125, 0, 0], 17, "AWS_EC2", "Cloud"),
    ([87, 240, 128, 0], 18, "VK", "SocialNetwork"),
    ([87, 250, 224, 0], 19, "Yandex", "Web"),
    ([91, 108, 4, 0], 22, "Telegram", "Chat"),
    ([91, 108, 8, 0], 22, "Telegram", "Chat"),
    ([91, 108, 12, 0], 22, "Telegram", "Chat"),
    ([91, 108, 16, 0], 22, "Telegram", "Chat"),
    ([91, 108, 20, 0], 22, "Telegram", "Chat"),
    ([91, 108, 56, 0], 22, "Telegram", "Chat"),
    ([93, 158, 128, 0], 18, "Yandex", "Web"),
    ([93, 186, 224, 0], 20, "VK", "SocialNetwork"),
    ([95, 108, 128, 0], 17, "Yandex", "Web"),
    ([95, 142, 192, 0], 20, "VK", "SocialNetwork"),
    ([95, 213, 0, 0], 17, "VK", "SocialNetwork"),
    ([99, 84, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([99, 86, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([102, 132, 96, 0], 20, "Facebook", "SocialNetwork"),
    ([103, 4, 96, 0], 22, "Facebook", "SocialNetwork"),
    ([103, 10, 124, 0], 23, "Steam", "Game"),
    ([103, 21, 244, 0], 22, "Cloudflare", "Web"),
    ([103, 22, 200, 0], 22, "Cloudflare", "Web"),
    ([103, 28, 54, 0], 23, "Steam", "Game"),
    ([103, 31, 4, 0], 22, "Cloudflare", "Web"),
    ([104, 16, 0, 0], 13, "Cloudflare", "Web"),
    ([104, 24, 0, 0], 14, "Cloudflare", "Web"),
    ([104, 40, 0, 0], 13, "Azure", "Cloud"),
    ([104, 154, 0, 0], 15, "GoogleCloud", "Cloud"),
    ([104, 196, 0, 0], 14, "GoogleCloud", "Cloud"),
    ([104, 208, 0, 0], 13, "Azure", "Cloud"),
    ([104, 244, 40, 0], 21, "Twitter", "SocialNetwork"),
    ([107, 20, 0, 0], 14, "AWS_EC2", "Cloud"),
    ([107, 178, 192, 0], 18, "GoogleCloud", "Cloud"),
    ([108, 160, 160, 0], 20, "Dropbox", "Cloud"),
    ([108, 162, 192, 0], 18, "Cloudflare", "Web"),
    ([108, 175, 32, 0], 20, "NetFlix", "Video"),
    ([108, 177, 0, 0], 17, "Google", "Web"),
    ([110, 75, 0, 0], 16, "Alibaba", "Web"),
    ([119, 28, 0, 0], 15, "Tencent", "SocialNetwork"),
    ([122, 248, 192, 0], 18, "AWS_EC2", "Cloud"),
    ([125, 209, 252, 0], 24, "Line", "Chat"),
    ([129, 134, 0, 0], 16, "Facebook", "SocialNetwork"),
    ([129, 226, 0, 0], 16, "Tencent", "SocialNetwork"),
    ([130, 211, 0, 0], 16, "GoogleCloud", "Cloud"),
    ([137, 116, 0, 0], 15, "Azure", "Cloud"),
    ([137, 135, 0, 0], 16, "Azure", "Cloud"),
    ([138, 91, 0, 0], 16, "Azure", "Cloud"),
    ([140, 82, 112, 0], 20, "Github", "Collaborative"),
    ([140, 205, 0, 0], 16, "Alibaba", "Web"),
    ([141, 101, 64, 0], 18, "Cloudflare", "Web"),
    ([142, 250, 0, 0], 15, "Google", "Web"),
    ([143, 55, 64, 0], 20, "Github", "Collaborative"),
    ([143, 204, 0, 0], 16, "AWS_Cloudfront", "Cloud"),
    ([146, 66, 152, 0], 21, "Steam", "Game"),
    ([146, 148, 0, 0], 17, "GoogleCloud", "Cloud"),
    ([147, 92, 128, 0], 17, "Line", "Chat"),
    ([147, 124, 96, 0], 19, "Zoom", "Video"),
    ([149, 154, 160, 0], 20, "Telegram", "Chat"),
    ([150, 109, 0, 0], 16, "Tencent", "SocialNetwork"),
    ([153, 254, 86, 0], 24, "Steam", "Game"),
    ([155, 133, 224, 0], 19, "Steam", "Game"),
    ([157, 240, 0, 0], 16, "Facebook", "SocialNetwork"),
    ([159, 124, 0, 0], 16, "Zoom", "Video"),
    ([162, 62, 0, 0], 16, "Tencent", "SocialNetwork"),
    ([162, 125, 0, 0], 16, "Dropbox", "Cloud"),
    ([162, 158, 0, 0], 15, "Cloudflare", "Web"),
    ([162, 254, 192, 0], 21, "Steam", "Game"),
    ([162, 255, 36, 0], 22, "Zoom", "Video"),
    ([168, 61, 0, 0], 16, "Azure", "Cloud"),
    ([168, 62, 0, 0], 15, "Azure", "Cloud"),
    ([170, 114, 0, 0], 16, "Zoom", "Video"),
    ([172, 64, 0, 0], 13, "Cloudflare", "Web"),
    ([172, 217, 0, 0], 16, "Google", "Web"),
    ([172, 253, 0, 0], 16, "Google", "Web"),
    ([173, 194, 0, 0], 16, "Google", "Web"),
    ([173, 245, 48, 0], 20, "Cloudflare", "Web"),
    ([173, 252, 64, 0], 18, "Facebook", "SocialNetwork"),
    ([174, 129, 0, 0], 16, "AWS_EC2", "Cloud"),
    ([175, 41, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([176, 32, 64, 0], 18, "AWS_EC2", "Cloud"),
    ([176, 34, 0, 0], 16, "AWS_EC2", "Cloud"),
    ([177, 71, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([178, 154, 128, 0], 18, "Yandex", "Web"),
    ([179, 60, 192, 0], 22, "Facebook", "SocialNetwork"),
    ([184, 72, 0, 0], 15, "AWS_EC2", "Cloud"),
    ([184, 169, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([185, 2, 220, 0], 22, "NetFlix", "Video"),
    ([185, 9, 188, 0], 22, "NetFlix", "Video"),
    ([185, 25, 180, 0], 22, "Steam", "Game"),
    ([185, 60, 216, 0], 22, "Facebook", "SocialNetwork"),
    ([185, 199, 108, 0], 22, "Github", "Collaborative"),
    ([188, 114, 96, 0], 20, "Cloudflare", "Web"),
    ([190, 93, 240, 0], 20, "Cloudflare", "Web"),
    ([191, 232, 0, 0], 13, "Azure", "Cloud"),
    ([192, 30, 252, 0], 22, "Github", "Collaborative"),
    ([192, 69, 96, 0], 22, "Steam", "Game"),
    ([192, 133, 76, 0], 22, "Twitter", "SocialNetwork"),
    ([192, 173, 64, 0], 18, "NetFlix", "Video"),
    ([197, 234, 240, 0], 22, "Cloudflare", "Web"),
    ([198, 11, 128, 0], 18, "Alibaba", "Web"),
    ([198, 38, 96, 0], 19, "NetFlix", "Video"),
    ([198, 41, 128, 0], 17, "Cloudflare", "Web"),
    ([198, 45, 48, 0], 20, "NetFlix", "Video"),
    ([199, 16, 156, 0], 22, "Twitter", "SocialNetwork"),
    ([199, 47, 216, 0], 22, "Dropbox", "Cloud"),
    ([199, 59, 148, 0], 22, "Twitter", "SocialNetwork"),
    ([199, 96, 56, 0], 21, "Twitter", "SocialNetwork"),
    ([203, 104, 128, 0], 20, "Line", "Chat"),
    ([203, 104, 144, 0], 21, "Line", "Chat"),
    ([203, 104, 152, 0], 22, "Line", "Chat"),
    ([203, 174, 66, 0], 23, "Line", "Chat"),
    ([203, 205, 128, 0], 17, "Tencent", "SocialNetwork"),
    ([204, 15, 20, 0], 22, "Facebook", "SocialNetwork"),
    ([204, 236, 128, 0], 17, "AWS_EC2", "Cloud"),
    ([204, 246, 164, 0], 22, "AWS_Cloudfront", "Cloud"),
    ([205, 196, 6, 0], 24, "Steam", "Game"),
    ([205, 251, 192, 0], 19, "AWS_Cloudfront", "Cloud"),
    ([206, 247, 0, 0], 16, "Zoom", "Video"),
    ([208, 64, 200, 0], 22, "Steam", "Game"),
    ([208, 78, 164, 0], 22, "Steam", "Game"),
    ([209, 85, 128, 0], 17, "Google", "Web"),
    ([213, 180, 192, 0], 19, "Yandex", "Web"),
    ([216, 58, 192, 0], 19, "Google", "Web"),
    ([216, 137, 32, 0], 19, "AWS_Cloudfront", "Cloud"),
    ([216, 182, 224, 0], 20, "AWS_EC2", "Cloud"),
    ([216, 239, 32, 0], 19, "Google", "Web"),
];

/// The network that `address` is in, the smallest one.
pub(super) fn lookup(address: IpAddr) -> Option<App> {
    let IpAddr::V4(address) = address.to_canonical() else {
        return None;
    };
    let number = u32::from(address);
    let end = NETWORKS.partition_point(|row| u32::from_be_bytes(row.0) <= number);
    // A smaller network begins later, and at most a few lie in a larger one.
    NETWORKS[..end]
        .iter()
        .rev()
        .take(MAX_NESTED)
        .find(|(start, bits, ..)| number ^ u32::from_be_bytes(*start) < 1 << (32 - bits))
        .map(|(_, _, name, category)| App { name, category })
}

/// Networks of the table inside one other, at most.
const MAX_NESTED: usize = 4;

/// The guess for a flow: the responder's network, or else the initiator's.
pub(super) fn guess([initiator, responder]: [IpAddr; 2]) -> Option<App> {
    lookup(responder).or_else(|| lookup(initiator))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn networks_are_in_order_and_aligned() {
        assert!(
            NETWORKS
                .windows(2)
                .all(|w| (w[0].0, w[0].1) < (w[1].0, w[1].1))
        );
        for (start, bits, ..) in NETWORKS {
            let start = u32::from_be_bytes(start);
            assert!((8..32).contains(&bits) && start.trailing_zeros() >= 32 - bits);
        }
    }

    #[test]
    fn every_network_is_found_by_its_ends() {
        for (start, bits, ..) in NETWORKS {
            let start = u32::from_be_bytes(start);
            for number in [start, start + ((1 << (32 - bits)) - 1)] {
                let address = IpAddr::V4(Ipv4Addr::from(number));
                assert!(lookup(address).is_some(), "{address}");
            }
        }
    }

    #[test]
    fn takes_the_smallest_network() {
        let name = |a: &str| lookup(a.parse().expect("an address")).map_or("", |app| app.name);
        assert_eq!(name("3.7.35.1"), "Zoom");
        assert_eq!(name("3.7.36.1"), "AWS_EC2");
        assert_eq!(name("8.8.8.8"), "Google");
        assert_eq!(name("::ffff:8.8.8.8"), "Google");
        assert_eq!(name("8.8.9.8"), "");
        assert_eq!(name("2001:db8::1"), "");
        assert_eq!(name("0.0.0.0"), "");
        assert_eq!(name("255.255.255.255"), "");
    }
}
