//! Which well-known service a domain belongs to.
//!
//! The domains are public knowledge; services and categories are called as nDPI calls them where it knows them.

use super::names::App;

/// Domains and what is under them: suffix, service, category; an empty service leaves the protocol's name. In order.
static SERVICES: [(&str, &str, &str); 521] = [
    ("1337x.to", "BitTorrent", "Download"),
    ("1e100.net", "Google", "Web"),
    ("1kxun.mobi", "1kxun", "Streaming"),
    ("a2z.com", "Amazon", "Web"),
    ("aaplimg.com", "Apple", "SoftwareUpdate"),
    ("activision.com", "Activision", "Game"),
    ("adcolony.com", "", "Advertisement"),
    ("addthis.com", "", "Advertisement"),
    ("adform.net", "", "Advertisement"),
    ("adjust.com", "", "Advertisement"),
    ("adnxs.com", "", "Advertisement"),
    ("ads-twitter.com", "", "Advertisement"),
    ("adservice.google.com", "Google", "Advertisement"),
    ("airport.us", "", "ConnCheck"),
    ("aiv-cdn.net", "AmazonVideo", "Video"),
    ("aiv-delivery.net", "AmazonVideo", "Video"),
    ("alexa.amazon.com", "AmazonAlexa", "VirtAssistant"),
    ("alibaba.com", "Alibaba", "Web"),
    ("alibabausercontent.com", "Alibaba", "Web"),
    ("alicdn.com", "Alibaba", "Web"),
    ("alice.yandex.net", "YandexAlice", "VirtAssistant"),
    ("aliexpress.com", "Alibaba", "Shopping"),
    ("alipay.com", "Alibaba", "Web"),
    ("alipayobjects.com", "Alibaba", "Web"),
    ("aliyuncs.com", "Alibaba", "Web"),
    ("amazon-adsystem.com", "", "Advertisement"),
    ("amazon.ca", "Amazon", "Web"),
    ("amazon.com", "Amazon", "Web"),
    ("amazon.de", "Amazon", "Web"),
    ("amazon.es", "Amazon", "Web"),
    ("amazon.fr", "Amazon", "Web"),
    ("amazon.in", "Amazon", "Web"),
    ("amazon.it", "Amazon", "Web"),
    ("amazonaws.com", "AmazonAWS", "Cloud"),
    ("amazonvideo.com", "AmazonVideo", "Video"),
    ("anchorfree.com", "HotspotShield", "VPN"),
    ("android.clients.google.com", "PlayStore", "SoftwareUpdate"),
    ("api.amazonalexa.com", "AmazonAlexa", "VirtAssistant"),
    ("app-measurement.com", "Google", "Web"),
    ("apple-cloudkit.com", "Apple", "Web"),
    ("apple-dns.net", "Apple", "Web"),
    ("apple.com", "Apple", "Web"),
    ("applovin.com", "", "Advertisement"),
    ("appsflyer.com", "", "Advertisement"),
    ("atv-ps.amazon.com", "AmazonVideo", "Video"),
    ("audio-ak-spotify-com.akamaized.net", "Spotify", "Music"),
    ("avast.com", "Cybersec", "Cybersecurity"),
    ("azure-api.net", "Azure", "Cloud"),
    ("azure.com", "Azure", "Cloud"),
    ("azureedge.net", "Azure", "Cloud"),
    ("azurefd.net", "Azure", "Cloud"),
    ("azurewebsites.net", "Azure", "Cloud"),
    ("badoo.com", "Badoo", "SocialNetwork"),
    ("badoocdn.com", "Badoo", "SocialNetwork"),
    ("bamgrid.com", "DisneyPlus", "Streaming"),
    ("battle.net", "Blizzard", "Game"),
    ("bing.com", "Microsoft365", "Collaborative"),
    ("blizzard.com", "Blizzard", "Game"),
    ("blob.core.windows.net", "Azure", "Cloud"),
    ("bloomberg.com", "Bloomberg", "Cloud"),
    ("bootstrapcdn.com", "", "Media"),
    ("bsky.app", "Bluesky", "SocialNetwork"),
    ("bsky.network", "Bluesky", "SocialNetwork"),
    ("buy.itunes.apple.com", "AppleStore", "SoftwareUpdate"),
    ("byteoversea.com", "TikTok", "SocialNetwork"),
    ("cactusvpn.com", "CactusVPN", "VPN"),
    ("callofduty.com", "", "Game"),
    ("captive.apple.com", "Apple", "ConnCheck"),
    ("cbsaavideo.com", "ParamountPlus", "Streaming"),
    ("cbsi.com", "ParamountPlus", "Streaming"),
    ("cdn-apple.com", "Apple", "Web"),
    ("cdn-telegram.org", "Telegram", "Chat"),
    ("cdninstagram.com", "Instagram", "SocialNetwork"),
    ("chartbeat.com", "", "Advertisement"),
    ("chartbeat.net", "", "Advertisement"),
    ("chartboost.com", "", "Advertisement"),
    ("chat.google.com", "GoogleChat", "Chat"),
    ("chatgpt.com", "", "ArtifIntelligence"),
    ("chaturbate.com", "", "AdultContent"),
    ("citrix.com", "Citrix", "Network"),
    ("classroom.google.com", "GoogleClassroom", "Collaborative"),
    ("claude.ai", "", "ArtifIntelligence"),
    ("cloud.yandex.ru", "YandexCloud", "Cloud"),
    ("cloudapp.net", "Azure", "Cloud"),
    ("cloudflare-dns.com", "DoH_DoT", "Network"),
    ("cloudflare.com", "Cloudflare", "Web"),
    ("cloudflareclient.com", "CloudflareWarp", "VPN"),
    ("cloudfront.net", "AWS_Cloudfront", "Cloud"),
    ("cnn.com", "CNN", "Web"),
    ("connectivitycheck.android.com", "Google", "ConnCheck"),
    ("connectivitycheck.gstatic.com", "Google", "ConnCheck"),
    ("crashlytics.com", "Crashlytics", "DataTransfer"),
    ("criteo.com", "", "Advertisement"),
    ("criteo.net", "", "Advertisement"),
    ("crowdstrike.com", "Cybersec", "Cybersecurity"),
    ("dai.ly", "Dailymotion", "Streaming"),
    ("dailymotion.com", "Dailymotion", "Streaming"),
    ("database.windows.net", "Azure", "Cloud"),
    ("datasaver.googleapis.com", "DataSaver", "Web"),
    ("dazn-api.com", "Dazn", "Streaming"),
    ("dazn.com", "Dazn", "Streaming"),
    ("daznedge.net", "Dazn", "Streaming"),
    ("dbankcdn.com", "HuaweiCloud", "Cloud"),
    ("dbankcloud.com", "HuaweiCloud", "Cloud"),
    ("deepseek.com", "", "ArtifIntelligence"),
    ("deezer.com", "Deezer", "Music"),
    ("detectportal.firefox.com", "", "ConnCheck"),
    ("dev.virtualearth.net", "Microsoft365", "Collaborative"),
    ("direct.yandex.ru", "YandexDirect", "Advertisement"),
    ("discord.com", "Discord", "Collaborative"),
    ("discord.gg", "Discord", "Collaborative"),
    ("discord.media", "Discord", "Collaborative"),
    ("discordapp.com", "Discord", "Collaborative"),
    ("discordapp.net", "Discord", "Collaborative"),
    ("disk.yandex.ru", "YandexDisk", "Cloud"),
    ("disney-plus.net", "DisneyPlus", "Streaming"),
    ("disneyplus.com", "DisneyPlus", "Streaming"),
    ("dmcdn.net", "Dailymotion", "Streaming"),
    ("dns.adguard.com", "DoH_DoT", "Network"),
    ("dns.cloudflare.com", "DoH_DoT", "Network"),
    ("dns.google", "DoH_DoT", "Network"),
    ("dns.nextdns.io", "DoH_DoT", "Network"),
    ("dns.quad9.net", "DoH_DoT", "Network"),
    ("dns10.quad9.net", "DoH_DoT", "Network"),
    ("dns9.quad9.net", "DoH_DoT", "Network"),
    ("docs.google.com", "GoogleDocs", "Collaborative"),
    ("docs.googleusercontent.com", "GoogleDocs", "Collaborative"),
    ("doh.cleanbrowsing.org", "DoH_DoT", "Network"),
    ("doh.opendns.com", "DoH_DoT", "Network"),
    ("dota2.com", "Dota2", "Game"),
    ("doubleclick.net", "Google", "Advertisement"),
    ("drive.google.com", "GoogleDrive", "Cloud"),
    ("dropbox-dns.com", "Dropbox", "Cloud"),
    ("dropbox.com", "Dropbox", "Cloud"),
    ("dropboxapi.com", "Dropbox", "Cloud"),
    ("dropboxstatic.com", "Dropbox", "Cloud"),
    ("dropboxusercontent.com", "Dropbox", "Cloud"),
    ("dssott.com", "DisneyPlus", "Streaming"),
    ("ea.com", "ElectronicArts", "Game"),
    ("ebay.com", "eBay", "Shopping"),
    ("ebay.de", "eBay", "Shopping"),
    ("ebay.it", "eBay", "Shopping"),
    ("ebayimg.com", "eBay", "Shopping"),
    ("ebayrtm.com", "eBay", "Shopping"),
    ("ebaystatic.com", "eBay", "Shopping"),
    ("edgecastcdn.net", "", "Media"),
    ("epicgames.com", "EpicGames", "Game"),
    ("eset.com", "Cybersec", "Cybersecurity"),
    ("espn.com", "Espn", "Streaming"),
    ("expertcity.com", "GoTo", "VoIP"),
    ("facebook.com", "Facebook", "SocialNetwork"),
    ("facebook.net", "Facebook", "SocialNetwork"),
    ("fast.com", "NetFlix", "Network"),
    ("fastly.net", "", "Media"),
    ("fb.com", "Facebook", "SocialNetwork"),
    ("fbcdn-sphotos-a.akamaihd.net", "Facebook", "SocialNetwork"),
    ("fbcdn.net", "Facebook", "SocialNetwork"),
    ("fbsbx.com", "Facebook", "SocialNetwork"),
    ("fbstatic-a.akamaihd.net", "Facebook", "SocialNetwork"),
    ("flurry.com", "", "Advertisement"),
    ("fna.fbcdn.net", "FbookReelStory", "SocialNetwork"),
    ("fna.whatsapp.net", "WhatsAppFiles", "Download"),
    ("force.com", "Salesforce", "Cloud"),
    ("fortnite.com", "EpicGames", "Game"),
    ("g.live.com", "MS_OneDrive", "Cloud"),
    ("gaijin.net", "GaijinEntertainment", "Game"),
    ("gaijinent.com", "GaijinEntertainment", "Game"),
    ("geforcenow.com", "GeForceNow", "Game"),
    ("gemini.google.com", "Google", "ArtifIntelligence"),
    ("getgo.com", "GoTo", "VoIP"),
    ("ggpht.com", "Google", "Web"),
    ("github.com", "Github", "Collaborative"),
    ("github.io", "Github", "Collaborative"),
    ("githubassets.com", "Github", "Collaborative"),
    ("githubusercontent.com", "Github", "Collaborative"),
    ("gitlab.com", "GitLab", "Collaborative"),
    ("gmail.com", "GMail", "Email"),
    ("goog", "Google", "Cloud"),
    ("google-analytics.com", "Google", "Advertisement"),
    ("google.com", "Google", "Web"),
    ("googleadservices.com", "Google", "Advertisement"),
    ("googleapis.com", "GoogleServices", "Web"),
    ("googlesyndication.com", "Google", "Advertisement"),
    ("googletagmanager.com", "GoogleServices", "Web"),
    ("googletagservices.com", "GoogleServices", "Web"),
    ("googleusercontent.com", "Google", "Web"),
    ("googlevideo.com", "YouTube", "Media"),
    ("googlezip.net", "DataSaver", "Web"),
    ("goto.com", "GoTo", "VoIP"),
    ("gotomeeting.com", "GoTo", "VoIP"),
    ("gotowebinar.com", "GoTo", "VoIP"),
    ("gstatic.com", "Google", "Web"),
    ("gtimg.com", "QQ", "Chat"),
    ("guzzoni.apple.com", "AppleSiri", "VirtAssistant"),
    ("gvt1.com", "Google", "Web"),
    ("gvt2.com", "Google", "Web"),
    ("hbo.com", "HBO", "Streaming"),
    ("hbogo.com", "HBO", "Streaming"),
    ("hbomax.com", "HBO", "Streaming"),
    ("hbonow.com", "HBO", "Streaming"),
    ("heads-ak.spotify.com.edgesuite.net", "Spotify", "Music"),
    ("hicloud.com", "HuaweiCloud", "Cloud"),
    ("hotjar.com", "", "Advertisement"),
    ("hotmail.com", "Outlook", "Email"),
    ("hotspotshield.com", "HotspotShield", "VPN"),
    ("huawei.com", "Huawei", "Web"),
    ("hulu.com", "Hulu", "Streaming"),
    ("huluim.com", "Hulu", "Streaming"),
    ("hulustream.com", "Hulu", "Streaming"),
    ("hwcdn.net", "", "Media"),
    ("ibyteimg.com", "TikTok", "SocialNetwork"),
    ("icloud-content.com", "AppleiCloud", "Web"),
    ("icloud.com", "AppleiCloud", "Web"),
    ("icloud.com.cn", "AppleiCloud", "Web"),
    ("icq.com", "", "Chat"),
    ("iheart.com", "IHeartRadio", "Music"),
    ("images-amazon.com", "Amazon", "Web"),
    ("inbox.google.com", "GMail", "Email"),
    ("indazn.com", "Dazn", "Streaming"),
    ("inmobi.com", "", "Advertisement"),
    ("instagram.com", "Instagram", "SocialNetwork"),
    ("iq.com", "iQIYI", "Streaming"),
    ("iqiyi.com", "iQIYI", "Streaming"),
    ("iqiyipic.com", "iQIYI", "Streaming"),
    ("itunes.apple.com", "AppleiTunes", "Streaming"),
    ("jsdelivr.net", "", "Media"),
    ("jtvnw.net", "Twitch", "Video"),
    ("kakao.com", "KakaoTalk", "Chat"),
    ("kaspersky.com", "Cybersec", "Cybersecurity"),
    ("king.com", "", "Game"),
    ("kochava.com", "", "Advertisement"),
    ("last.fm", "LastFM", "Music"),
    ("licdn.com", "LinkedIn", "SocialNetwork"),
    ("like.video", "Likee", "SocialNetwork"),
    ("likee.com", "Likee", "SocialNetwork"),
    ("line-apps.com", "Line", "Chat"),
    ("line-scdn.net", "Line", "Chat"),
    ("line.me", "Line", "Chat"),
    ("line.naver.jp", "Line", "Chat"),
    ("linkedin.com", "LinkedIn", "SocialNetwork"),
    ("live-video.net", "Twitch", "Video"),
    ("llnwd.net", "", "Media"),
    ("login.live.com", "Microsoft365", "Collaborative"),
    ("login.windows.net", "Microsoft365", "Collaborative"),
    ("logmeininc.com", "GoTo", "VoIP"),
    ("lync.com", "Teams", "Collaborative"),
    ("m.me", "FacebookMessenger", "Chat"),
    ("mail.google.com", "GMail", "Email"),
    ("mail.yandex.ru", "YandexMail", "Email"),
    ("malwarebytes.com", "Cybersec", "Cybersecurity"),
    ("maps.google.com", "GoogleMaps", "Web"),
    ("maps.gstatic.com", "GoogleMaps", "Web"),
    ("market.yandex.ru", "YandexMarket", "Shopping"),
    ("mask-api.icloud.com", "iCloudPrivateRelay", "VPN"),
    ("mask-h2.icloud.com", "iCloudPrivateRelay", "VPN"),
    ("mask.icloud.com", "iCloudPrivateRelay", "VPN"),
    ("mastodon.social", "Mastodon", "SocialNetwork"),
    ("mcafee.com", "Cybersec", "Cybersecurity"),
    ("me.com", "AppleiCloud", "Web"),
    ("media-amazon.com", "AmazonVideo", "Video"),
    ("meet.google.com", "GoogleMeet", "Chat"),
    ("messenger.com", "FacebookMessenger", "Chat"),
    ("metrika.yandex.ru", "YandexMetrika", "Web"),
    ("mgid.com", "", "Advertisement"),
    ("mi.com", "Xiaomi", "Web"),
    ("microsoft.com", "Microsoft", "Web"),
    ("microsoftonline.com", "Microsoft365", "Collaborative"),
    ("miui.com", "Xiaomi", "Web"),
    ("mixpanel.com", "", "Advertisement"),
    ("mmstat.com", "Alibaba", "Web"),
    ("mopub.com", "", "Advertisement"),
    ("mozilla.com", "Mozilla", "Web"),
    ("mozilla.net", "Mozilla", "Web"),
    ("mozilla.org", "Mozilla", "Web"),
    ("msedge.net", "Microsoft", "Web"),
    ("msftconnecttest.com", "Microsoft", "Web"),
    ("msn.com", "Microsoft", "Web"),
    ("msocdn.com", "Microsoft", "Web"),
    ("mtalk.google.com", "GoogleServices", "Web"),
    ("mullvad.net", "Mullvad", "VPN"),
    ("muscdn.com", "TikTok", "SocialNetwork"),
    ("music.yandex.ru", "YandexMusic", "Music"),
    ("musical.ly", "TikTok", "SocialNetwork"),
    ("mzstatic.com", "Apple", "Web"),
    ("napps-1.com", "NordVPN", "VPN"),
    ("naver.com", "Naver", "Web"),
    ("net.anydesk.com", "AnyDesk", "RemoteAccess"),
    ("netflix.com", "NetFlix", "Video"),
    ("newrelic.com", "", "Advertisement"),
    ("nflxext.com", "NetFlix", "Video"),
    ("nflximg.net", "NetFlix", "Video"),
    ("nflxso.net", "NetFlix", "Video"),
    ("nflxvideo.net", "NetFlix", "Video"),
    ("nintendo.com", "Nintendo", "Game"),
    ("nintendo.net", "Nintendo", "Game"),
    ("nmcheck.gnome.org", "", "ConnCheck"),
    ("nordcdn.com", "NordVPN", "VPN"),
    ("nordvpn.com", "NordVPN", "VPN"),
    ("norton.com", "Cybersec", "Cybersecurity"),
    ("notebooklm.google.com", "Google", "ArtifIntelligence"),
    ("ntop.org", "ntop", "Network"),
    ("nvidia.com", "Nvidia", "Web"),
    ("ocsp.digicert.com", "OCSP", "Network"),
    ("ocsp.godaddy.com", "OCSP", "Network"),
    ("ocsp.msocsp.com", "OCSP", "Network"),
    ("ocsp.pki.goog", "OCSP", "Network"),
    ("ocsp.quovadisglobal.com", "OCSP", "Network"),
    ("ocsp.sectigo.com", "OCSP", "Network"),
    ("office.com", "Microsoft365", "Collaborative"),
    ("office.net", "Microsoft365", "Collaborative"),
    ("office365.com", "Microsoft365", "Collaborative"),
    ("officeapps.live.com", "Microsoft365", "Collaborative"),
    ("oneclient.sfx.ms", "MS_OneDrive", "Cloud"),
    ("onenote.com", "Microsoft365", "Collaborative"),
    ("onlyfans.com", "", "AdultContent"),
    ("ooklaserver.net", "Ookla", "Network"),
    ("openai.com", "", "ArtifIntelligence"),
    ("opendns.com", "OpenDNS", "Network"),
    ("openx.net", "", "Advertisement"),
    ("osxapps.itunes.apple.com", "AppleStore", "SoftwareUpdate"),
    ("outlook.com", "Outlook", "Email"),
    ("outlook.office.com", "Outlook", "Email"),
    ("outlook.office365.com", "Outlook", "Email"),
    ("p01-buy.itunes.apple.com", "AppleStore", "SoftwareUpdate"),
    ("pandora.com", "Pandora", "Streaming"),
    ("paramount.com", "ParamountPlus", "Streaming"),
    ("paramountplus.com", "ParamountPlus", "Streaming"),
    ("perplexity.ai", "", "ArtifIntelligence"),
    ("pinimg.com", "Pinterest", "SocialNetwork"),
    ("pinterest.com", "Pinterest", "SocialNetwork"),
    ("pitangui.amazon.com", "AmazonAlexa", "VirtAssistant"),
    ("platform.linkedin.com", "Microsoft365", "Collaborative"),
    ("play-fe.googleapis.com", "PlayStore", "SoftwareUpdate"),
    ("play.google.com", "PlayStore", "SoftwareUpdate"),
    ("play.googleapis.com", "PlayStore", "SoftwareUpdate"),
    ("playstation.com", "Playstation", "Game"),
    ("playstation.net", "Playstation", "Game"),
    ("polargrizzly.com", "TunnelBear", "VPN"),
    ("pornhub.com", "", "AdultContent"),
    ("pps.tv", "iQIYI", "Streaming"),
    ("primevideo.com", "AmazonVideo", "Video"),
    ("privateinternetaccess.com", "PrivateInternetAccess", "VPN"),
    ("proton.me", "ProtonVPN", "VPN"),
    ("protonvpn.com", "ProtonVPN", "VPN"),
    ("pscdn.co", "Spotify", "Music"),
    ("pubmatic.com", "", "Advertisement"),
    ("push.apple.com", "ApplePush", "Cloud"),
    ("pvp.net", "RiotGames", "Game"),
    ("qq.com", "QQ", "Chat"),
    ("queue.core.windows.net", "Azure", "Cloud"),
    ("qy.net", "iQIYI", "Streaming"),
    ("radiotime.com", "TuneIn", "Music"),
    ("rbxcdn.com", "Roblox", "Game"),
    ("redd.it", "Reddit", "SocialNetwork"),
    ("reddit.com", "Reddit", "SocialNetwork"),
    ("redditmedia.com", "Reddit", "SocialNetwork"),
    ("redditstatic.com", "Reddit", "SocialNetwork"),
    ("redtube.com", "", "AdultContent"),
    ("riotgames.com", "RiotGames", "Game"),
    ("roblox.com", "Roblox", "Game"),
    ("rockstargames.com", "RockstarGames", "Game"),
    ("rubiconproject.com", "", "Advertisement"),
    ("rutube.ru", "RUTUBE", "Media"),
    ("salesforce.com", "Salesforce", "Cloud"),
    ("salesforceliveagent.com", "Salesforce", "Web"),
    ("sc-cdn.net", "Snapchat", "SocialNetwork"),
    ("sc-jpl.com", "Snapchat", "SocialNetwork"),
    ("sc-prod.net", "Snapchat", "SocialNetwork"),
    ("scdn.co", "Spotify", "Music"),
    ("scorecardresearch.com", "", "Advertisement"),
    ("sentinelone.net", "Cybersec", "Cybersecurity"),
    ("servicebus.windows.net", "Azure", "Cloud"),
    ("sharepoint.com", "MS_OneDrive", "Cloud"),
    ("showmax.com", "", "Streaming"),
    ("showtime.com", "Showtime", "Streaming"),
    ("signal.me", "Signal", "Chat"),
    ("signal.org", "Signal", "Chat"),
    ("simpli.fi", "", "Advertisement"),
    ("sina.com.cn", "Sina", "SocialNetwork"),
    ("sinaimg.cn", "Sina", "SocialNetwork"),
    ("sinajs.cn", "Sina", "SocialNetwork"),
    ("siriusxm.com", "SiriusXMRadio", "Music"),
    ("skype.com", "Teams", "Collaborative"),
    ("slack-edge.com", "Slack", "Collaborative"),
    ("slack-files.com", "Slack", "Collaborative"),
    ("slack-imgs.com", "Slack", "Collaborative"),
    ("slack-msgs.com", "Slack", "Collaborative"),
    ("slack.com", "Slack", "Collaborative"),
    ("slackb.com", "Slack", "Collaborative"),
    ("smaato.net", "", "Advertisement"),
    ("smartadserver.com", "", "Advertisement"),
    ("smtp.office365.com", "Outlook", "Email"),
    ("snapads.com", "Snapchat", "SocialNetwork"),
    ("snapchat.com", "Snapchat", "SocialNetwork"),
    ("sndcdn.com", "SoundCloud", "Music"),
    ("sonos.com", "Sonos", "Music"),
    ("sonos.radio", "Sonos", "Music"),
    ("sonyentertainmentnetwork.com", "Playstation", "Game"),
    ("soundcloud.com", "SoundCloud", "Music"),
    ("speedtest.net", "Ookla", "Network"),
    ("spotify-com.akamaized.net", "Spotify", "Music"),
    ("spotify.com", "Spotify", "Music"),
    ("spotifycdn.com", "Spotify", "Music"),
    ("spotilocal.com", "Spotify", "Music"),
    ("ssl-images-amazon.com", "Amazon", "Web"),
    ("starcraft2.com", "Blizzard", "Game"),
    ("steamcommunity.com", "Steam", "Game"),
    ("steamcontent.com", "Steam", "Game"),
    ("steampowered.com", "Steam", "Game"),
    ("steamstatic.com", "Steam", "Game"),
    ("storage.live.com", "MS_OneDrive", "Cloud"),
    ("store-images.s-microsoft.com", "Microsoft", "Web"),
    ("supercell.com", "", "Game"),
    ("supersonicads.com", "", "Advertisement"),
    ("surfshark.com", "SurfShark", "VPN"),
    ("swscan.apple.com", "AppleStore", "SoftwareUpdate"),
    ("symantec.com", "Cybersec", "Cybersecurity"),
    ("t.co", "Twitter", "SocialNetwork"),
    ("t.me", "Telegram", "Chat"),
    ("table.core.windows.net", "Azure", "Cloud"),
    ("taboola.com", "", "Advertisement"),
    ("tailscale.com", "Tailscale", "VPN"),
    ("taobao.com", "Taobao", "Shopping"),
    ("tdesktop.com", "Telegram", "Chat"),
    ("teams.live.com", "Teams", "Collaborative"),
    ("teams.microsoft.com", "Teams", "Collaborative"),
    ("teamviewer.com", "TeamViewer", "RemoteAccess"),
    ("telegram.me", "Telegram", "Chat"),
    ("tesla.services", "TeslaServices", "Network"),
    ("thinkdifferent.us", "", "ConnCheck"),
    ("threads.net", "Threads", "SocialNetwork"),
    ("tidal.com", "Tidal", "Music"),
    ("tiktok.com", "TikTok", "SocialNetwork"),
    ("tiktokcdn-us.com", "TikTok", "SocialNetwork"),
    ("tiktokcdn.com", "TikTok", "SocialNetwork"),
    ("tiktokv.com", "TikTok", "SocialNetwork"),
    ("tiktokv.us", "TikTok", "SocialNetwork"),
    ("tiles.virtualearth.net", "Microsoft365", "Collaborative"),
    ("tmall.com", "Taobao", "Shopping"),
    ("torproject.org", "Tor", "VPN"),
    ("trafficjunky.net", "", "AdultContent"),
    ("trafficmanager.net", "Azure", "Cloud"),
    ("ttvnw.net", "Twitch", "Video"),
    ("tumblr.com", "Tumblr", "SocialNetwork"),
    ("tunein.com", "TuneIn", "Music"),
    ("tunnelbear.com", "TunnelBear", "VPN"),
    ("tv.apple.com", "AppleTVPlus", "Streaming"),
    ("twimg.com", "Twitter", "SocialNetwork"),
    ("twitch.tv", "Twitch", "Video"),
    ("twitchcdn.net", "Twitch", "Video"),
    ("twitchsvc.net", "Twitch", "Video"),
    ("twitter.com", "Twitter", "SocialNetwork"),
    ("twttr.com", "Twitter", "SocialNetwork"),
    ("ubnt.com", "Ubiquity", "Network"),
    ("ubuntu.com", "Canonical", "Cloud"),
    ("ui.com", "Ubiquity", "Network"),
    ("unityads.unity3d.com", "", "Advertisement"),
    ("unrealengine.com", "EpicGames", "Game"),
    ("update.microsoft.com", "WindowsUpdate", "SoftwareUpdate"),
    ("upload.youtube.com", "YouTubeUpload", "Media"),
    ("userapi.com", "VK", "SocialNetwork"),
    ("utorrent.com", "BitTorrent", "Download"),
    ("v.qq.com", "Tencentvideo", "Streaming"),
    ("vault.azure.net", "Azure", "Cloud"),
    ("viber.com", "Viber", "Chat"),
    ("vimeo.com", "Vimeo", "Streaming"),
    ("vimeocdn.com", "Vimeo", "Streaming"),
    ("visualstudio.com", "Azure", "Cloud"),
    ("vk-cdn.net", "VK", "SocialNetwork"),
    ("vk.com", "VK", "SocialNetwork"),
    ("vkuser.net", "VK", "SocialNetwork"),
    ("vkvideo.ru", "VK", "SocialNetwork"),
    ("vudu.com", "Vudu", "Streaming"),
    ("vungle.com", "", "Advertisement"),
    ("warthunder.com", "GaijinEntertainment", "Game"),
    ("waze.com", "Waze", "Web"),
    ("web.telegram.org", "Telegram", "Chat"),
    ("webex.com", "Webex", "VoIP"),
    ("webexcontent.com", "Webex", "VoIP"),
    ("wechat.com", "WeChat", "Chat"),
    ("wechatapp.com", "WeChat", "Chat"),
    ("weibo.cn", "SinaWeibo", "SocialNetwork"),
    ("weibo.com", "SinaWeibo", "SocialNetwork"),
    ("whatsapp.com", "WhatsApp", "Chat"),
    ("whatsapp.net", "WhatsApp", "Chat"),
    ("whispersystems.org", "Signal", "Chat"),
    ("wikimedia.org", "Wikipedia", "Web"),
    ("wikipedia.org", "Wikipedia", "Web"),
    ("windowsupdate.com", "WindowsUpdate", "SoftwareUpdate"),
    ("windscribe.com", "Windscribe", "VPN"),
    ("wns.windows.com", "MS_OneDrive", "Cloud"),
    ("worldofwarcraft.com", "WorldOfWarcraft", "Game"),
    ("www.outlook.com", "Microsoft365", "Collaborative"),
    ("x.com", "Twitter", "SocialNetwork"),
    ("xbox.com", "Xbox", "Game"),
    ("xboxlive.com", "Xbox", "Game"),
    ("xhamster.com", "", "AdultContent"),
    ("xiaomi.com", "Xiaomi", "Web"),
    ("xiaomi.net", "Xiaomi", "Web"),
    ("xnxx.com", "", "AdultContent"),
    ("xvideos.com", "", "AdultContent"),
    ("xx.fbcdn.net", "FbookReelStory", "SocialNetwork"),
    ("yahoo.co.jp", "Yahoo", "Web"),
    ("yahoo.com", "Yahoo", "Web"),
    ("yammer.com", "Microsoft365", "Collaborative"),
    ("yandex.by", "Yandex", "Web"),
    ("yandex.com", "Yandex", "Web"),
    ("yandex.kz", "Yandex", "Web"),
    ("yandex.net", "Yandex", "Web"),
    ("yandex.ru", "Yandex", "Web"),
    ("yastatic.net", "Yandex", "Web"),
    ("yimg.com", "Yahoo", "Web"),
    ("youporn.com", "", "AdultContent"),
    ("youtu.be", "YouTube", "Media"),
    ("youtube-nocookie.com", "YouTube", "Media"),
    ("youtube.com", "YouTube", "Media"),
    ("youtubei.googleapis.com", "YouTube", "Media"),
    ("yt3.ggpht.com", "YouTube", "Media"),
    ("ytimg.com", "YouTube", "Media"),
    ("zattoo.com", "Zattoo", "Video"),
    ("zoom.us", "Zoom", "Video"),
];

/// Clouds of devices that nDPI has no name for. In order.
static DEVICE_CLOUDS: [(&str, &str, &str); 80] = [
    ("aqara.com", "Aqara", "IoT-Scada"),
    ("arlo.com", "Arlo", "IoT-Scada"),
    ("arlostatic.com", "Arlo", "IoT-Scada"),
    ("august.com", "August", "IoT-Scada"),
    ("belkin.com", "Belkin", "IoT-Scada"),
    ("bose.com", "Bose", "IoT-Scada"),
    ("dahuaddns.com", "Dahua", "IoT-Scada"),
    ("dlink.com", "DLink", "IoT-Scada"),
    ("dropcam.com", "Nest", "IoT-Scada"),
    ("dyson.com", "Dyson", "IoT-Scada"),
    ("ecobee.com", "Ecobee", "IoT-Scada"),
    ("ecovacs.com", "Ecovacs", "IoT-Scada"),
    ("edimax.com", "Edimax", "IoT-Scada"),
    ("eufylife.com", "Eufy", "IoT-Scada"),
    ("ezviz.com", "Hikvision", "IoT-Scada"),
    ("ezvizlife.com", "Hikvision", "IoT-Scada"),
    ("fitbit.com", "Fitbit", "IoT-Scada"),
    ("garmin.com", "Garmin", "IoT-Scada"),
    ("govee.com", "Govee", "IoT-Scada"),
    ("harman.com", "Harman", "IoT-Scada"),
    ("harmonyremote.com", "Logitech", "IoT-Scada"),
    ("hik-connect.com", "Hikvision", "IoT-Scada"),
    ("hikvision.com", "Hikvision", "IoT-Scada"),
    ("home-assistant.io", "HomeAssistant", "IoT-Scada"),
    ("homematic.com", "HomeMatic", "IoT-Scada"),
    ("ikea.net", "Ikea", "IoT-Scada"),
    ("immedia-semi.com", "Blink", "IoT-Scada"),
    ("irobot.com", "iRobot", "IoT-Scada"),
    ("kasasmart.com", "TPLink", "IoT-Scada"),
    ("ledvance.com", "Osram", "IoT-Scada"),
    ("lge.com", "LG", "IoT-Scada"),
    ("lgsmartad.com", "LG", "IoT-Scada"),
    ("lgtvcommon.com", "LG", "IoT-Scada"),
    ("lgtvsdp.com", "LG", "IoT-Scada"),
    ("lifx.com", "LIFX", "IoT-Scada"),
    ("lockly.com", "Lockly", "IoT-Scada"),
    ("logitech.com", "Logitech", "IoT-Scada"),
    ("meethue.com", "PhilipsHue", "IoT-Scada"),
    ("meross.com", "Meross", "IoT-Scada"),
    ("mydlink.com", "DLink", "IoT-Scada"),
    ("myedimax.com", "Edimax", "IoT-Scada"),
    ("nabucasa.com", "HomeAssistant", "IoT-Scada"),
    ("nest.com", "Nest", "IoT-Scada"),
    ("netatmo.com", "Netatmo", "IoT-Scada"),
    ("netatmo.net", "Netatmo", "IoT-Scada"),
    ("netgear.com", "Netgear", "IoT-Scada"),
    ("osram.com", "Osram", "IoT-Scada"),
    ("philips-hue.com", "PhilipsHue", "IoT-Scada"),
    ("reolink.com", "Reolink", "IoT-Scada"),
    ("ring.com", "Ring", "IoT-Scada"),
    ("roku.com", "Roku", "IoT-Scada"),
    ("rokucdn.com", "Roku", "IoT-Scada"),
    ("samsungads.com", "Samsung", "IoT-Scada"),
    ("samsungcloudsolution.com", "Samsung", "IoT-Scada"),
    ("samsungcloudsolution.net", "Samsung", "IoT-Scada"),
    ("samsungelectronics.com", "Samsung", "IoT-Scada"),
    ("samsungiotcloud.com", "SmartThings", "IoT-Scada"),
    ("samsungosp.com", "Samsung", "IoT-Scada"),
    ("samsungotn.net", "Samsung", "IoT-Scada"),
    ("shelly.cloud", "Shelly", "IoT-Scada"),
    ("smarter.am", "Smarter", "IoT-Scada"),
    ("smartthings.com", "SmartThings", "IoT-Scada"),
    ("switch-bot.com", "SwitchBot", "IoT-Scada"),
    ("tesla.com", "Tesla", "IoT-Scada"),
    ("teslamotors.com", "Tesla", "IoT-Scada"),
    ("tp-link.com", "TPLink", "IoT-Scada"),
    ("tplinkcloud.com", "TPLink", "IoT-Scada"),
    ("tplinkra.com", "TPLink", "IoT-Scada"),
    ("tractive.com", "Tractive", "IoT-Scada"),
    ("tuya.com", "Tuya", "IoT-Scada"),
    ("tuyacn.com", "Tuya", "IoT-Scada"),
    ("tuyaeu.com", "Tuya", "IoT-Scada"),
    ("tuyaus.com", "Tuya", "IoT-Scada"),
    ("wemo.com", "Belkin", "IoT-Scada"),
    ("withings.com", "Withings", "IoT-Scada"),
    ("withings.net", "Withings", "IoT-Scada"),
    ("wyze.com", "Wyze", "IoT-Scada"),
    ("wyzecam.com", "Wyze", "IoT-Scada"),
    ("xbcs.net", "Belkin", "IoT-Scada"),
    ("yeelight.com", "Xiaomi", "IoT-Scada"),
];

/// The most specific entry for `domain`, which is in lower case; `devices` looks at the clouds of devices too.
pub(super) fn lookup(domain: &str, devices: bool) -> Option<App> {
    let domain = domain.split(':').next()?;
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let mut rest = Some(domain);
    while let Some(suffix) = rest {
        let found = find(suffix, devices)
            .map(|app| refine(domain, app))
            .or_else(|| google(suffix));
        if found.is_some() {
            return found;
        }
        rest = suffix.split_once('.').map(|(_, parent)| parent);
    }
    None
}

/// Where each domain of the tables is, by its hash: one more than its row in [`SERVICES`], those of [`DEVICE_CLOUDS`] after
/// them, 0 for nothing. The next place is taken when one is not free.
static PLACES: [u16; ALL_PLACES] = {
    let mut places = [0; ALL_PLACES];
    let mut row = 0;
    while row < SERVICES.len() + DEVICE_CLOUDS.len() {
        let name = if row < SERVICES.len() {
            SERVICES[row].0
        } else {
            DEVICE_CLOUDS[row - SERVICES.len()].0
        };
        let mut place = place(name.as_bytes());
        while places[place] != 0 {
            place = (place + 1) % ALL_PLACES;
        }
        row += 1;
        places[place] = row as u16;
    }
    places
};
/// At least six for each domain: most names that are asked for are in none, and are told so at once.
const ALL_PLACES: usize = 4_096;
const _: () = assert!(6 * (SERVICES.len() + DEVICE_CLOUDS.len()) <= ALL_PLACES);

/// Where a name's search begins: from its length and up to eight bytes of it.
const fn place(name: &[u8]) -> usize {
    let n = name.len();
    let mut mixed = n as u32;
    let mut i = 0;
    while i < 8 {
        // The end of most names is `.com`.
        let at = i * n / 8;
        if at < n {
            mixed = (mixed ^ name[at] as u32).wrapping_mul(0x0100_0193);
        }
        i += 1;
    }
    (mixed ^ mixed >> 16) as usize % ALL_PLACES
}

fn find(suffix: &str, devices: bool) -> Option<App> {
    let mut at = place(suffix.as_bytes());
    loop {
        let row = usize::from(PLACES[at]).checked_sub(1)?;
        let (domain, name, category) = match row.checked_sub(SERVICES.len()) {
            None => SERVICES[row],
            Some(row) => DEVICE_CLOUDS[row],
        };
        let is_wanted = devices || row < SERVICES.len();
        if domain == suffix && is_wanted {
            return Some(App { name, category });
        }
        at = (at + 1) % ALL_PLACES;
    }
}

const GOOGLE: App = App {
    name: "Google",
    category: "Web",
};

/// Google has a domain in most countries.
fn google(suffix: &str) -> Option<App> {
    let country = suffix.strip_prefix("google.")?;
    let country = country
        .strip_prefix("com.")
        .or(country.strip_prefix("co."))
        .unwrap_or(country);
    (!country.contains('.')).then_some(GOOGLE)
}

/// Services that name their hosts by a pattern.
fn refine(domain: &str, app: App) -> App {
    let cloud = |name| App {
        name,
        category: "Cloud",
    };
    let host = domain.split('.').next().unwrap_or_default();
    match app.name {
        "AmazonAWS" => {
            let has = |label: &str| domain.split('.').any(|l| l == label);
            if domain.split('.').any(|l| l == "s3" || l.starts_with("s3-")) {
                cloud("AWS_S3")
            } else if has("compute") || domain.contains(".compute-") {
                cloud("AWS_EC2")
            } else if has("execute-api") {
                cloud("AWS_API_Gateway")
            } else if has("kinesis") {
                cloud("AWS_Kinesis")
            } else {
                app
            }
        }
        "Google" if host.ends_with("-mtalk") => App {
            name: "GoogleServices",
            ..app
        },
        _ => app,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(domain: &str) -> &'static str {
        lookup(domain, false).map_or("", |app| app.name)
    }

    #[test]
    fn tables_are_in_order() {
        assert!(SERVICES.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(DEVICE_CLOUDS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn every_domain_is_found_and_searches_are_short() {
        for (row, (domain, name, category)) in SERVICES.iter().chain(&DEVICE_CLOUDS).enumerate() {
            let app = App { name, category };
            assert_eq!(find(domain, true), Some(app), "{domain}");
            assert_eq!(find(domain, false).is_some(), row < SERVICES.len());
        }
        let longest = PLACES.split(|row| *row == 0).map(<[u16]>::len).max();
        assert!(longest < Some(12), "{longest:?} places in a row");
    }

    #[test]
    fn takes_the_most_specific_domain() {
        assert_eq!(name("www.google.com"), "Google");
        assert_eq!(name("mail.google.com"), "GMail");
        assert_eq!(name("google.com:443"), "Google");
        assert_eq!(name("google.com."), "Google");
        assert_eq!(name("www.google.com.hk"), "Google");
        assert_eq!(name("notgoogle.com"), "");
        assert_eq!(name("google.com.example.org"), "");
        assert_eq!(name(""), "");
        assert_eq!(name("..."), "");
    }

    #[test]
    fn knows_patterns_of_hosts() {
        assert_eq!(name("bucket.s3.eu-west-1.amazonaws.com"), "AWS_S3");
        assert_eq!(name("s3-eu-west-1.amazonaws.com"), "AWS_S3");
        assert_eq!(name("ec2-1-2-3-4.compute-1.amazonaws.com"), "AWS_EC2");
        assert_eq!(name("sqs.eu-west-1.amazonaws.com"), "AmazonAWS");
    }

    #[test]
    fn knows_clouds_of_devices_when_asked() {
        assert_eq!(lookup("a1.tuyaeu.com", false), None);
        assert_eq!(lookup("a1.tuyaeu.com", true).map(|a| a.name), Some("Tuya"));
    }
}
