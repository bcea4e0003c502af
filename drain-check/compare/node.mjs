// Node's `http` with `close`, which also closes idle connections (since Node 19).
import http from 'node:http';

const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    let received = 0;
    request.on('data', (chunk) => { received += chunk.length; });
    request.on('end', () => response.end(String(received)));
  } else if (request.url === '/slow') {
    setTimeout(() => response.end('slow\n'), 200);
  } else {
    response.end('hello\n');
  }
});
server.listen(Number(process.env.PORT), '127.0.0.1');
if (process.argv[2] !== 'plain') {
  process.on('SIGTERM', () => {
    server.close();
    server.closeIdleConnections?.(); // before Node 19
  });
}
