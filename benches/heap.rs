//! The memory of a hundred thousand requests that are pending at once, each in its own task.
//!
//! ```text
//! cargo bench -p benches --bench heap            # a few seconds
//! cargo bench -p benches --bench heap -- --quick
//! ```
//!
//! The heap is measured by a counting allocator. The allocator takes some time, so this is not part
//! of `scale`, which measures time. Tokio's tasks grow in steps of 128 bytes. Where a future
//! happens to be near the end of a step, the step matters more than the size of the future. So
//! there is also an average over services of eight different sizes.

mod common;
#[path = "common/pending.rs"]
mod pending;
#[path = "common/results.rs"]
mod results;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/ways.rs"]
mod ways;

use pending::{Countdown, never, start};
use results::{Heap, HeapOf};
use ways::{Bare, ByHand, Ours, Select, UntilCancelled, Way};

fn main() {
    let pending = if results::quick() { 10_000 } else { 100_000 };
    let ways = vec![
        heap::<Bare>(pending),
        heap::<Ours>(pending),
        heap::<Select>(pending),
        heap::<UntilCancelled>(pending),
        heap::<ByHand>(pending),
    ];
    println!("heap per request in bytes, {pending} pending\n");
    println!(
        "{:36} {:>10} {:>10} {:>10} {:>10}",
        "", "one size", "over bare", "average", "over bare"
    );
    let bare = &ways[0];
    for HeapOf {
        name,
        bytes,
        average,
    } in &ways
    {
        let over = (bytes - bare.bytes, average - bare.average);
        println!(
            "{name:36} {bytes:10.1} {:+10.1} {average:10.1} {:+10.1}",
            over.0, over.1
        );
    }
    results::write("heap", Heap { pending, ways });
}

/// In bytes per request, for services whose sizes are spread over one step of tokio's tasks.
fn heap<W: Way>(pending: usize) -> HeapOf {
    let sizes = [
        bytes::<W, 0>(pending),
        bytes::<W, 16>(pending),
        bytes::<W, 32>(pending),
        bytes::<W, 48>(pending),
        bytes::<W, 64>(pending),
        bytes::<W, 80>(pending),
        bytes::<W, 96>(pending),
        bytes::<W, 112>(pending),
    ];
    HeapOf {
        name: W::NAME.to_owned(),
        bytes: sizes[0],
        average: sizes.iter().sum::<f64>() / sizes.len() as f64,
    }
}

fn bytes<W: Way, const SIZE: usize>(pending: usize) -> f64 {
    // Everything runs on this thread, whose allocations are counted.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let way = runtime.block_on(async { W::new() });
    let service = way.around(never::<SIZE>());
    let countdown = Countdown::of(pending);
    let allocated = allocation_counter::measure(|| {
        runtime.block_on(async {
            start(&service, &countdown, false).await;
            countdown.all_pending().await;
        });
    });
    allocated.bytes_current as f64 / pending as f64
}
