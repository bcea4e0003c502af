// Go's net/http.
package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var upload = strings.Repeat("u", 65536)

func send(url string, n int64) (response *http.Response, wanted string, err error) {
	at := func(path string) string { return fmt.Sprintf("%s%s?id=%d", url, path, n) }
	switch n % 10 {
	case 5, 6:
		wanted = "slow 50"
		response, err = http.Get(at("/slow/50"))
	case 7:
		response, err = http.Get(at("/stream"))
	case 8, 9:
		wanted = fmt.Sprintf("order %d of 65536", n)
		response, err = http.Post(at(fmt.Sprintf("/orders/%d", n)), "text/plain", strings.NewReader(upload))
	default:
		wanted = "quick"
		response, err = http.Get(at("/"))
	}
	return
}

func ask(url string, n int64) error {
	for {
		response, wanted, err := send(url, n)
		if errors.Is(err, syscall.ECONNREFUSED) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode != 200 {
			return errors.New(response.Status)
		}
		if (wanted == "" && len(body) != 65536) || (wanted != "" && string(body) != wanted) {
			return errors.New("not whole")
		}
		return nil
	}
}

func main() {
	url, stop := os.Args[1], os.Args[2]
	var last int64
	var workers sync.WaitGroup
	for i := 0; i < 16; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				if _, err := os.Stat(stop); err == nil {
					return
				}
				n := atomic.AddInt64(&last, 1)
				if err := ask(url, n); err != nil {
					fmt.Println("failed", n, err)
				} else {
					fmt.Println("ok", n)
				}
				time.Sleep(time.Duration(rand.Intn(20)) * time.Millisecond)
			}
		}()
	}
	workers.Wait()
}
