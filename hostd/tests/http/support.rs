//! A hostd's API in this process, and a plain client of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_api::client::Mutation;
use host_api::{AttachNic, Client, CreateNic, Nic, Problem};
use hostd::board::Board;
use hostd::config::{Config, PatienceConfig};
use hostd::http;
use hostd::ports::HostPorts;
use hostd::service::Service;
use hostd::store::Store;
use hostd::supervisor::Supervisor;
use hostd::surroundings::Surroundings;
use hostd::worker::Tools;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use journal::{Journal, MemoryJournal};
use nic_lifecycle::Site;
use nic_model::NicId;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::site::{hardware, site};

/// Longest that anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A served API; dropping it ends it.
pub(crate) struct Server {
    pub(crate) service: Arc<Service>,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    serving: JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The refusal; every one says what it is.
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), Some(Problem::MEDIA_TYPE));
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    /// For a caller that is an operator.
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(MemoryJournal::default()), None).await
    }

    /// For a caller that is a tenant.
    pub(crate) async fn start_for_tenant(name: &str) -> Self {
        Self::start_with(Arc::new(MemoryJournal::default()), Some(name)).await
    }

    pub(crate) async fn start_with(journal: Arc<dyn Journal>, tenant: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory.path().join("api.sock"), tenant);
        let board = Arc::new(Board::default());
        let store = Arc::new(Store::open(config.site.clone(), journal, board.clone()).unwrap());
        for vm in ["vm1", "vm2", "private"] {
            store.observe(|ledger| ledger.observe(&vm.parse().unwrap(), hardware()));
        }
        let tools = Tools {
            store,
            board,
            ports: Arc::new(HostPorts::new(BTreeMap::new())),
            patience: config.patience,
            surroundings: Surroundings::default(),
        };
        let service = Service::new(tools, Arc::default(), Supervisor::default());
        let service = Arc::new(service);
        let (socket, served) = (config.socket.clone(), service.clone());
        let serving = tokio::spawn(async move { http::serve(&config, served).await.unwrap() });
        until_connected(&socket).await;
        Self {
            service,
            client: Client::unix(&socket),
            socket,
            serving,
            _directory: directory,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Method::POST, path, &[], body.into()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hostd");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = within(response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        Answer {
            status,
            headers,
            body,
        }
    }

    /// A NIC that is nowhere, on the network `blue`.
    pub(crate) async fn created(&self) -> Nic {
        self.client
            .create_nic(&create(), &Default::default())
            .await
            .unwrap()
            .nic
    }

    /// A NIC on its way to `vm1`.
    pub(crate) async fn attaching(&self) -> Nic {
        let id = self.created().await.id;
        let (request, mutation) = (attach(1), Mutation::default());
        let attaching = self.client.attach_nic(&id, &request, &mutation);
        attaching.await.unwrap().nic
    }

    /// The NICs as everybody sees them, for comparison.
    pub(crate) async fn listed(&self) -> Value {
        self.get("/v1/nics").await.json()
    }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it happens in time")
}

async fn until_connected(socket: &Path) {
    within(async {
        while UnixStream::connect(socket).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) fn create() -> CreateNic {
    serde_json::from_str(r#"{"network": "blue"}"#).unwrap()
}

/// A request to attach to `vm1`, each number to another container.
pub(crate) fn attach(number: u32) -> AttachNic {
    let target = format!("netns:c{number}").parse().unwrap();
    AttachNic {
        vm: "vm1".parse().unwrap(),
        target,
        link_name: None,
    }
}

pub(crate) fn attach_path(nic: &NicId) -> String {
    host_api::path::nic_attach(nic)
}

fn config(socket: &Path, tenant: Option<&str>) -> Config {
    let own_uid = rustix::process::getuid().as_raw();
    Config {
        socket: socket.to_owned(),
        socket_mode: 0o600,
        journal: PathBuf::new(),
        site: private_site(),
        ports: Default::default(),
        qmp_vms: Vec::new(),
        libvirt_uri: None,
        tenants_by_uid: tenant
            .map(|name| (own_uid, name.parse().unwrap()))
            .into_iter()
            .collect(),
        patience: PatienceConfig {
            attach: PATIENCE,
            release: PATIENCE,
            quarantine: PATIENCE,
        },
    }
}

/// Three VMs with room for eight NICs each; `private` is tenant `red`'s alone.
fn private_site() -> Site {
    Site {
        tenant_of: [("private".parse().unwrap(), "red".parse().unwrap())].into(),
        ..site()
    }
}
