// Java's `HttpClient`.
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;

public class Client {
    static final HttpClient client = HttpClient.newHttpClient();
    static final AtomicInteger last = new AtomicInteger();
    static final String upload = "u".repeat(65536);
    static String url;

    static String ask(int n) throws InterruptedException {
        String path = "/", wanted = "quick";
        boolean isOrder = false;
        switch (n % 10) {
            case 5: case 6: path = "/slow/50"; wanted = "slow 50"; break;
            case 7: path = "/stream"; wanted = null; break;
            case 8: case 9: path = "/orders/" + n; wanted = "order " + n + " of 65536"; isOrder = true; break;
            default:
        }
        var request = HttpRequest.newBuilder(URI.create(url + path + "?id=" + n));
        if (isOrder) request.POST(BodyPublishers.ofString(upload));
        for (;;) {
            try {
                var response = client.send(request.build(), BodyHandlers.ofString());
                if (response.statusCode() != 200) return "failed " + n + " " + response.statusCode();
                String body = response.body();
                boolean whole = wanted == null ? body.length() == 65536 : body.equals(wanted);
                return whole ? "ok " + n : "failed " + n + " not whole";
            } catch (ConnectException refused) {
                Thread.sleep(20);
            } catch (Exception error) {
                return "failed " + n + " " + error;
            }
        }
    }

    public static void main(String[] args) throws Exception {
        url = args[0];
        Path stop = Path.of(args[1]);
        var threads = new ArrayList<Thread>();
        for (int i = 0; i < 16; i++) {
            threads.add(new Thread(() -> {
                try {
                    while (!Files.exists(stop)) {
                        System.out.println(ask(last.incrementAndGet()));
                        Thread.sleep(ThreadLocalRandom.current().nextInt(20));
                    }
                } catch (InterruptedException error) {
                    throw new AssertionError(error);
                }
            }));
        }
        for (var thread : threads) thread.start();
        for (var thread : threads) thread.join();
        System.exit(0);
    }
}
