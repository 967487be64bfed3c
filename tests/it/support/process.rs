//! A gateway as a process of its own, to be frozen and killed.

use super::{Client, PATIENCE, Settings, signal};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub struct Process {
    child: Child,
    pub client: Client,
    pub pid: u32,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a gateway; returns once it says that it serves.
    pub async fn start(settings: &Settings) -> Self {
        let (child, address, log) = Self::spawn(settings).await.unwrap_or_else(|log| panic!("the gateway did not start:\n{log}"));
        let pid = child.id().unwrap();
        Self { child, client: Client::new(&format!("http://{address}"), "shop"), pid, log }
    }

    /// Starts a gateway that must not start: its exit code and what it said.
    pub async fn fail(settings: &Settings) -> (i32, String) {
        let output = Self::command(settings).output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(settings: &Settings) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("serve").envs(&settings.values).env("TIDEGATE_LOG_FORMAT", "json").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn spawn(settings: &Settings) -> Result<(Child, String, Arc<Mutex<String>>), String> {
        let mut child = Self::command(settings).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let address = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(line)) = lines.next_line().await {
                log.push_str(&line);
                log.push('\n');
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = value["address"].as_str() {
                    return Some(address.to_owned());
                }
            }
            None
        })
        .await;
        // Read on, so that the process never waits for us to read its log.
        let kept = Arc::new(Mutex::new(log.clone()));
        let more = kept.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = more.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        match address {
            Ok(Some(address)) => Ok((child, address, kept)),
            _ => Err(log),
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it in good order: its exit code.
    pub async fn terminate(mut self) -> i32 {
        self.signal("TERM");
        let code = self.wait().await;
        if code != 0 {
            eprintln!("the gateway said:\n{}", self.log.lock().unwrap());
        }
        code
    }

    pub async fn wait(&mut self) -> i32 {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the process ends in time").unwrap();
        status.code().unwrap_or(-1)
    }

    /// Whether it answers and is ready.
    pub async fn is_ready(&self) -> bool {
        let asked = self.client.http.get(format!("{}/readyz", self.client.url)).timeout(Duration::from_secs(5)).send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    }
}
