// Command crunch adds up the amounts of a region in a list of sales. It knows nothing of
// containers: it reads files and the environment, writes files, and calls a URL.
package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	command := "sum"
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "sum":
		err = sum(os.Getenv("REGION"), os.Getenv("KEY"))
	case "eat":
		err = eat()
	case "tell":
		err = tell()
	default:
		err = fmt.Errorf("there is no command %q", command)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crunch:", err)
		os.Exit(1)
	}
}

// sum writes the report of a region and says its total. It writes what it has read also
// when something is wrong with the rest.
func sum(region, key string) error {
	if key == "" {
		return errors.New("KEY is not set")
	}
	fmt.Printf("signing the report of %s with %s\n", region, key)
	in, err := os.Open("sales.csv")
	if err != nil {
		return err
	}
	defer in.Close()
	report, err := os.Create("report.txt")
	if err != nil {
		return err
	}
	defer report.Close()
	total, lines := 0, csv.NewReader(in)
	for {
		row, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(row) < 3 || row[1] != region {
			continue
		}
		amount, err := strconv.Atoi(row[2])
		if err != nil {
			return fmt.Errorf("%s of %s: %w", row[0], region, err)
		}
		total += amount
		fmt.Fprintf(report, "%s %d\n", row[0], amount)
	}
	fmt.Fprintf(report, "total %d\n", total)
	return os.WriteFile(os.Getenv("WAYBILL_OUTPUT"), fmt.Appendf(nil, "total=%d\n", total), 0o644)
}

// eat takes ever more memory.
func eat() error {
	fmt.Println("taking all the memory there is")
	var all [][]byte
	for {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
		if len(all) > 1<<14 {
			return errors.New("there is no limit")
		}
	}
}

// tell returns a variable by the callback, and tries again while nobody answers.
func tell() error {
	var totals []int
	if err := json.Unmarshal([]byte(os.Getenv("TOTALS")), &totals); err != nil {
		return fmt.Errorf("TOTALS: %w", err)
	}
	sum := 0
	for _, n := range totals {
		sum += n
	}
	body, err := json.Marshal(map[string]any{"variables": map[string]any{"___TOTAL": sum}})
	if err != nil {
		return err
	}
	for range 30 {
		if err = post(body); err == nil {
			fmt.Println("told the total of all regions:", sum)
			return nil
		}
		time.Sleep(time.Second)
	}
	return err
}

func post(body []byte) error {
	r, err := http.NewRequest(http.MethodPost, os.Getenv("WAYBILL_CALLBACK"), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("WAYBILL_TOKEN"))
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the callback answers %s", res.Status)
	}
	return nil
}
