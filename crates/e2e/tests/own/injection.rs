//! The runner's two ways into a pod.

use agentloop_e2e::{Lab, Task, iterations};
use anyhow::{Context, Result, ensure};

const DONE: &str = "Succeeded/Completed";

/// Runs a task to its end with the runner brought in this way, and tells how its pod had it: an image volume, an
/// init container.
async fn ways(lab: &Lab, name: &str, injection: &str) -> Result<(bool, bool)> {
    lab.operator.install(&["--set", &format!("runner.injection={injection}")]).await?;
    lab.create(&Task::new(name, &["prompt", "change", "ready-at=2"]).claim()).await?;
    let seen = lab.until_state(name, iterations(2), DONE).await?;
    lab.exactly(&seen, 2)?;
    let pods = lab.history.of(seen.uid());
    let spec = pods.last().and_then(|pod| pod.pod.spec.as_ref()).context("the pod has no spec")?;
    let by_volume = spec.volumes.iter().flatten().any(|volume| volume.image.is_some());
    Ok((by_volume, spec.init_containers.iter().flatten().next().is_some()))
}

/// Its namespace enforces the restricted level, as all of these tests' do.
#[tokio::test]
async fn the_runner_comes_as_an_image_volume_or_by_an_init_container_as_it_was_set() -> Result<()> {
    Lab::own("injection", &[])
        .await?
        .run(async |lab| {
            ensure!(ways(lab, "volume", "image-volume").await? == (true, false), "no image volume alone");
            ensure!(ways(lab, "init", "init-container").await? == (false, true), "no init container alone");
            Ok(())
        })
        .await
}
