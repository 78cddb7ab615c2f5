//! Tunnel mode in namespaces: device, gateway, observer, far end, server.

mod carries;
mod fails;
mod hostile;
mod network;
mod scene;
mod stock;
