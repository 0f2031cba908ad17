//! Vector nodes as processes: the reference data node, built beside the control node's binary.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::control::ControlCluster;
use super::http::Api;
use super::ports::PortPair;
use super::process::{Process, program};
use super::wait::DEADLINE;

/// Numbers in a vector of these tests.
pub const DIMENSIONS: usize = 4;

/// One vector node.
pub struct DataNode {
    name: String,
    rack: Option<String>,
    coordinators: String,
    ports: PortPair,
    folder: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl DataNode {
    /// A vector node that registers with `cluster`.
    pub fn start(cluster: &ControlCluster, name: &str, rack: Option<&str>) -> Self {
        let mut node = Self {
            name: name.to_owned(),
            rack: rack.map(str::to_owned),
            coordinators: cluster.addrs(),
            ports: PortPair::reserve(),
            folder: cluster.folder().join(name),
            log: cluster.folder().join(format!("{name}.log")),
            process: None,
        };
        node.spawn();
        node
    }

    /// Starts it again, on the files that it has.
    pub fn spawn(&mut self) {
        let mut args: Vec<String> = Vec::new();
        let mut flag = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        flag("--node-id", &self.name);
        flag("--listen", &self.ports.addr());
        flag("--coordinators", &self.coordinators);
        flag("--data-dir", self.folder.to_str().unwrap());
        flag("--dimensions", &DIMENSIONS.to_string());
        if let Some(rack) = &self.rack {
            flag("--rack", rack);
        }
        assert!(self.process.is_none(), "{} runs", self.name);
        self.process = Some(Process::spawn(&self.name, &program("vector-node"), &args, &self.log));
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn addr(&self) -> String {
        self.ports.addr()
    }

    /// Its API.
    pub fn api(&self) -> Api {
        Api::new(&self.ports.addr())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// Waits until it has ended by itself.
    pub async fn wait_for_death(&mut self) {
        let status = self.process.as_mut().expect("it runs").exit_status(DEADLINE).await;
        assert_eq!(status.signal(), Some(9), "{} ended otherwise", self.name);
        self.process = None;
    }

    /// Whether it was started and not killed.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Deletes its files.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        std::fs::remove_dir_all(&self.folder).unwrap();
    }

    /// Writes one vector and waits for the acknowledgement.
    ///
    /// # Errors
    /// Whatever came instead.
    pub async fn write(&self, id: &str, vector: [f32; DIMENSIONS]) -> Result<(), String> {
        let body = json!({"points": [{"id": id, "vector": vector}]});
        let answer: Value = self.api().post_as("/v1/vectors", &body).await?;
        if answer["written"] == 1 { Ok(()) } else { Err(format!("{answer}")) }
    }

    /// Reads one vector.
    ///
    /// # Errors
    /// Whatever came instead.
    pub async fn read(&self, id: &str) -> Result<Vec<f32>, String> {
        let answer: Value = self.api().get_as(&format!("/v1/vectors/{id}")).await?;
        serde_json::from_value(answer["vector"].clone()).map_err(|e| format!("{e}: {answer}"))
    }
}
