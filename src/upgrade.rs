//! temporary
#[derive(Debug, Clone)]
pub struct UpgradeGuard;
impl UpgradeGuard {
    pub(crate) fn note_aborted(&self) {}
}
