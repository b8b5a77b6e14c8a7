//! The control plane's requests and answers, as they are in JSON: what `deploy` gives, `http` sends and describes, and the
//! command line reads. Nothing here does anything.
//!
//! Types of the catalog and the models that are sent as they are come through here, so that this is the whole contract.

mod functions;
mod models;
mod status;

pub use functions::{
    AliasPut, AliasRemoved, Deleted, Function, FunctionItem, FunctionList, FunctionPut, FunctionVersions, LogLines,
    LoggedLine, PutAlias, Settings, SettingsPatch,
};
pub use models::{
    ModelItem, ModelList, ModelLoaded, ModelPinned, ModelPut, ModelUnloaded, ModelVersions, PinModel, UploadList,
};
pub use status::{DeviceStatus, ErrorBody, ErrorDetail, Invocations, LimitValue, OpenUploads, Status};

pub use crate::catalog::{
    FunctionDetail, FunctionSummary, ModelDetail, ModelSummary, ModelVersionDetail, UploadStatus,
};
pub use crate::interface::GrantNames;
pub use crate::model::{
    Checked, Dim, EngineChoice, EngineName, EngineState, ModelState, Package, PackageFile, Residency, Signature,
    TensorSignature, Verdict,
};
