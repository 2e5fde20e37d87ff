//! `lateen up`: a mesh on this machine, until Ctrl-C or `lateen down`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use lateen_base::{descriptors, drain};

use super::demo::Bookinfo;
use crate::ExitStatus;
use crate::arguments::UpArguments;
use crate::printer::Printer;
use crate::standalone::supervisor::{Node, Supervisor};
use crate::standalone::{self, lock::Lock, ready};

const ROOT_NAMESPACE: &str = "istio-system";
const INGRESS: &str = "istio-ingressgateway";
/// The last word of a detached start to its parent.
const READY: &str = "ready";

/// Runs the mesh, with `bookinfo` in it where that is given.
pub(crate) async fn up(
    arguments: UpArguments,
    bookinfo: Option<Bookinfo>,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    if arguments.detach {
        return detach(printer);
    }
    let report = match arguments.report_fd {
        Some(descriptor) => {
            let file = File::from(descriptors::inherited(descriptor)?);
            *printer = Printer::to_file(file.try_clone()?);
            Some(file)
        }
        None => None,
    };
    let state = standalone::state_dir(&arguments.state)?;
    state.create().with_context(|| format!("cannot make the state folder {}", state.root().display()))?;
    let _lock = Lock::take(&state)?;
    // A kubeconfig of an earlier run names a port that may be another program's now.
    let _ = std::fs::remove_file(state.kubeconfig());
    let mut supervisor = Supervisor::new(&arguments, state.clone())?;
    printer.progress(&format!("starting the mesh (state in {})", state.root().display()));

    let kubeconfig = state.kubeconfig();
    let termination = drain::termination_signal();
    tokio::pin!(termination);
    let mut node = supervisor.start()?;
    let started = tokio::select! {
        signal = &mut termination => {
            node.stop().await?;
            printer.progress(&format!("{}: stopped", signal?));
            return Ok(ExitStatus::Failure);
        }
        ended = node.ended() => {
            Err(anyhow::anyhow!("the node ended at once ({})\n{}", ended?, supervisor.log_tail()))
        }
        result = tokio::time::timeout(
            Duration::from_secs(arguments.timeout),
            start_up(&supervisor, &kubeconfig, bookinfo, printer),
        ) => match result {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!(
                "the mesh was not ready after {} s; raise --timeout, or look for the reason in\n{}",
                arguments.timeout,
                supervisor.log_tail()
            )),
        },
    };
    if let Err(error) = started {
        node.stop().await?;
        return Err(error);
    }
    if let Some(mut report) = report {
        // From now on this process is on its own; its last words go to nobody.
        *printer = Printer::to_file(File::options().write(true).open("/dev/null")?);
        writeln!(report, "{READY}")?;
    }
    supervise(&mut supervisor, node, termination, printer).await
}

/// Restarts the node when it ends, and ends with it when asked to.
async fn supervise(
    supervisor: &mut Supervisor,
    mut node: Node,
    mut termination: std::pin::Pin<&mut impl Future<Output = std::io::Result<&'static str>>>,
    printer: &mut Printer,
) -> anyhow::Result<ExitStatus> {
    loop {
        tokio::select! {
            signal = &mut termination => {
                printer.progress(&format!("{}: stopping", signal?));
                node.stop().await?;
                printer.progress("stopped; the objects stay for the next start");
                return Ok(ExitStatus::Success);
            }
            ended = node.ended() => {
                let delay = supervisor.restart_delay(&node);
                printer.warning(&format!("the node ended ({}); starting it again\n{}", ended?, supervisor.log_tail()));
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    signal = &mut termination => {
                        printer.progress(&format!("{}: stopped", signal?));
                        return Ok(ExitStatus::Success);
                    }
                }
                node = supervisor.start()?;
            }
        }
    }
}

/// Waits until everything runs and says how to use it.
async fn start_up(
    supervisor: &Supervisor,
    kubeconfig: &std::path::Path,
    bookinfo: Option<Bookinfo>,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let client = ready::api(kubeconfig).await?;
    printer.progress(&format!("API server      https://{}", supervisor.api_address()?));
    ready::deployments(&client, ROOT_NAMESPACE, &[INGRESS], |_| {}).await?;
    let ingress = ingress_address(&client).await?;
    printer.progress(&format!("ingress gateway http://{ingress}"));
    if let Some(bookinfo) = &bookinfo {
        bookinfo.deploy(&client, &ingress, printer).await?;
    }
    printer.result(&summary(kubeconfig, &ingress, bookinfo.is_some()));
    Ok(())
}

async fn ingress_address(client: &Client) -> anyhow::Result<String> {
    let port = ready::node_port(client, ROOT_NAMESPACE, INGRESS, 80).await?;
    Ok(format!("127.0.0.1:{port}"))
}

fn summary(kubeconfig: &std::path::Path, ingress: &str, bookinfo: bool) -> String {
    let kubeconfig = kubeconfig.display();
    let mut text = String::from("\nThe mesh runs. ");
    text.push_str(match bookinfo {
        true => "Bookinfo is at\n\n",
        false => "Its gateway is at\n\n",
    });
    let page = if bookinfo { "/productpage" } else { "" };
    text.push_str(&format!(
        "    http://{ingress}{page}\n\nTo steer it:\n\n    export KUBECONFIG={kubeconfig}\n"
    ));
    text.push_str("    kubectl get pods\n    kubectl get virtualservices,destinationrules,gateways\n");
    text.push_str("    lateen proxy-status\n");
    if bookinfo {
        text.push_str("    lateen proxy-config routes deploy/productpage-v1\n");
        text.push_str(&format!(
            "    for i in $(seq 1 100); do curl -s -o /dev/null http://{ingress}{page}; done\n"
        ));
    }
    text.push_str("\nCtrl-C or `lateen down` stops it; the objects stay for the next start.\n");
    text
}

/// Starts this very command again in the background and waits until it is ready.
fn detach(printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let descriptor = writer.as_raw_fd();
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .arg(format!("--report-fd={descriptor}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    standalone::session::detach(&mut command, descriptor);
    let child = command.spawn().context("cannot start in the background")?;
    drop(writer);
    let mut ready = false;
    for line in BufReader::new(File::from(reader)).lines() {
        let line = line?;
        ready = line == READY;
        if !ready {
            printer.result(&line);
        }
    }
    // The child is not waited for: it is meant to outlive this process.
    let pid = child.id();
    match ready {
        true => Ok(ExitStatus::Success),
        false => bail!("the mesh did not start (process {pid} ended; its messages are above)"),
    }
}
