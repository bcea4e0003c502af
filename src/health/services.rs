//! The services and tasks in a health response.

use crate::shutdown::{Core, ServiceHealth};

/// Returns the started services, then the tasks. A name appears once.
pub(super) fn health(core: &Core) -> Vec<ServiceHealth> {
    let mut all = core.services.health();
    let services = all.len();
    for task in core.tasks.health() {
        let has_same_name = |service: &&mut ServiceHealth| service.name == task.name;
        match all[..services].iter_mut().find(has_same_name) {
            None => all.push(task),
            // A task that has died says more than a started service.
            Some(service) if service.status == "healthy" => *service = task,
            Some(_) => {}
        }
    }
    all
}
