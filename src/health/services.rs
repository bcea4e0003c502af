//! The services and tasks that a health answer shows.

use crate::shutdown::{Core, ServiceHealth};

/// Gives the services that were started, and then the tasks, by their names.
pub(super) fn health(core: &Core) -> Vec<ServiceHealth> {
    let mut all = core.services.health();
    let services = all.len();
    for task in core.tasks.health() {
        let of_its_name = |service: &&mut ServiceHealth| service.name == task.name;
        match all[..services].iter_mut().find(of_its_name) {
            None => all.push(task),
            // A task that has died says more than that the service was started.
            Some(service) if service.status == "healthy" => *service = task,
            Some(_) => {}
        }
    }
    all
}
