//! What is measured of a server: the same in each program.
//!
//! Each program has one server, as a service's program has. Inlining depends on the rest of the
//! program: with twelve servers in one program a layer cost up to a hundred instructions more.

use std::hint::black_box;

use gungraun::prelude::{library_benchmark, library_benchmark_group};

use crate::client::Connected;
use crate::measuring::REQUESTS;
use crate::serve;
use crate::server::{AT_ONCE, LATER};

fn http1() -> Connected {
    Connected::http1(serve, AT_ONCE)
}

fn http1_later() -> Connected {
    Connected::http1(serve, LATER)
}

fn http2() -> Connected {
    Connected::http2(serve, AT_ONCE)
}

#[library_benchmark]
#[bench::http1(setup = http1)]
#[bench::http1_later(setup = http1_later)]
#[bench::http2(setup = http2)]
fn server(mut connected: Connected) -> Connected {
    black_box(&mut connected).requests(REQUESTS);
    connected
}

library_benchmark_group!(name = servers, benchmarks = server);

/// Defines `main`: gungraun requires it in the file of the bench.
macro_rules! program {
    () => {
        mod measured {
            use super::suite::servers;

            gungraun::main!(
                config = gungraun::LibraryBenchmarkConfig::default()
                    .tool(gungraun::Callgrind::with_args(["collect-bus=yes"]));
                library_benchmark_groups = servers
            );

            pub fn run() {
                main();
            }
        }

        fn main() {
            if measuring::is_asked() {
                measured::run();
            }
        }
    };
}
pub(crate) use program;
