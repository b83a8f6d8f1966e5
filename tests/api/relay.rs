//! A connection to the API server that can be cut: bytes stop in both directions, and neither side notices.

use std::net::SocketAddr;

use kube::Config;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Relay {
    cut: watch::Sender<bool>,
    address: SocketAddr,
    server_name: String,
}

impl Relay {
    pub async fn to(config: &Config) -> Self {
        let host = config.cluster_url.host().expect("a host").to_owned();
        let port = config.cluster_url.port_u16().unwrap_or(443);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (cut, is_cut) = watch::channel(false);
        let upstream = (host.clone(), port);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far =
                    TcpStream::connect((upstream.0.as_str(), upstream.1)).await.expect("the API server");
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pump(near_in, far_out, is_cut.clone()));
                tokio::spawn(pump(far_in, near_out, is_cut.clone()));
            }
        });
        Self { cut, address, server_name: host }
    }

    /// The configuration of a client that connects through this.
    pub fn through(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.cluster_url = format!("https://{}", self.address).parse().expect("a URL");
        config.tls_server_name = Some(self.server_name.clone());
        config
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if *cut.borrow() {
            // The connection stays open until the test ends.
            let _ = cut.changed().await;
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
