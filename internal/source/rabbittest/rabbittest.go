// Package rabbittest gives tests a RabbitMQ of their own: a private node on free
// ports, with its own folder, that ends with the test. It is Debian's
// rabbitmq-server; without it tests are skipped, or fail if WAYBILL_REQUIRE_ALL is 1.
package rabbittest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// program is where Debian keeps the server without the script that changes the user.
const program = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// Node is a running node.
type Node struct {
	URL  string // with credentials
	Port int
	conn *amqp.Connection
	ch   *amqp.Channel
}

// free returns ports nobody listens on.
func free(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // it was only to find a port
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// Start starts a node.
func Start(t *testing.T) *Node {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatal("RabbitMQ is not here: apt-get install rabbitmq-server")
		}
		t.Skip("RabbitMQ is not here: apt-get install rabbitmq-server")
	}
	// A path that the name of a socket or a cookie file can stand.
	dir, err := os.MkdirTemp("", "rabbit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in the folder of temporary files
	ports := free(t, 3)
	for name, text := range map[string]string{
		"rabbitmq.conf": fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nloopback_users = none\ndisk_free_limit.absolute = 50MB\n", ports[0]),
		"plugins":       "[].\n", "env": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	epmd := strconv.Itoa(ports[2])
	// The node would start one that stays for ever.
	names := exec.CommandContext(ctx, "epmd", "-address", "127.0.0.1", "-port", epmd)
	if err := names.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = names.Wait() // it was killed
	})
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8", "ERL_EPMD_PORT=" + epmd, "ERL_EPMD_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_NODENAME=waybill%d@localhost", ports[0]), fmt.Sprintf("RABBITMQ_DIST_PORT=%d", ports[1]),
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE=" + filepath.Join(dir, "env"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"), "RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"), "RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	separate(cmd)
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end(cmd)
		cancel()
		_ = cmd.Wait() // it was killed
		_ = log.Close()
	})
	n := &Node{URL: fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", ports[0]), Port: ports[0]}
	for limit := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if n.conn, err = amqp.Dial(n.URL); err == nil {
			break
		}
		if time.Now().After(limit) {
			out, _ := os.ReadFile(log.Name()) // for the message only
			t.Fatalf("RabbitMQ does not answer: %v\n%s", err, out)
		}
	}
	t.Cleanup(func() { _ = n.conn.Close() }) // the node may have been stopped
	if n.ch, err = n.conn.Channel(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Declare makes a durable queue.
func (n *Node) Declare(t *testing.T, queue string) {
	t.Helper()
	if _, err := n.ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
}

// Send sends a message; an empty id is none.
func (n *Node) Send(t *testing.T, queue, id string, body []byte, headers map[string]string) {
	t.Helper()
	m := amqp.Publishing{MessageId: id, Body: body, DeliveryMode: amqp.Persistent, Headers: amqp.Table{}}
	for k, v := range headers {
		m.Headers[k] = v
	}
	if err := n.ch.PublishWithContext(t.Context(), "", queue, false, false, m); err != nil {
		t.Fatal(err)
	}
}

// Left counts the messages that wait in a queue; those in hand are not among them.
func (n *Node) Left(t *testing.T, queue string) int {
	t.Helper()
	q, err := n.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}
