//! The handles by which the operator's machines name the objects of the modelled cluster.

use agentloop_core::sync::{Handles, UninstallHandles};

use crate::api::{Attempt, KnownConfiguration, ModelPod, ModelPodId, ModelPvc, StatusId, TaskVersion};

/// Names modelled objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Modelled;

impl Handles for Modelled {
    type Task = TaskVersion;
    type Status = StatusId;
    type Active = Attempt;
    type Pod = ModelPod;
    type PodId = ModelPodId;
    type Pvc = ModelPvc;
    type Configuration = KnownConfiguration;
    type Time = ();
}

impl UninstallHandles for Modelled {
    type Task = TaskVersion;
    type TaskId = Option<u8>;
    type Status = StatusId;
    type Pod = ModelPodId;
}
