package extensions

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The protobuf form of these nouns, for clients that speak it. A field's
// number is its place in its struct, unless the tag protobuf says another;
// TypeMeta is not counted, since the envelope has it. What is no pointer is
// always written, as upstream does.
//
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/generated.proto,
// k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/generated.proto

// Marshal writes protobuf.
func (d *CustomResourceDefinition) Marshal() ([]byte, error) { return marshal(d) }

// Unmarshal reads protobuf.
func (d *CustomResourceDefinition) Unmarshal(data []byte) error { return unmarshal(data, d) }

// Marshal writes protobuf.
func (l *CustomResourceDefinitionList) Marshal() ([]byte, error) { return marshal(l) }

// Unmarshal reads protobuf.
func (l *CustomResourceDefinitionList) Unmarshal(data []byte) error { return unmarshal(data, l) }

// Marshal writes protobuf.
func (s *APIService) Marshal() ([]byte, error) { return marshal(s) }

// Unmarshal reads protobuf.
func (s *APIService) Unmarshal(data []byte) error { return unmarshal(data, s) }

// Marshal writes protobuf.
func (l *APIServiceList) Marshal() ([]byte, error) { return marshal(l) }

// Unmarshal reads protobuf.
func (l *APIServiceList) Unmarshal(data []byte) error { return unmarshal(data, l) }

// maxDepth bounds schemas within schemas; nothing real comes near it.
const maxDepth = 1000

var errTooDeep = fmt.Errorf("nested more than %d deep", maxDepth)

// foreign are the types of others, which know their own form.
type foreign interface {
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

var foreignTypes = []reflect.Type{reflect.TypeFor[metav1.ObjectMeta](), reflect.TypeFor[metav1.ListMeta](), reflect.TypeFor[metav1.Time]()}

// field is one of a struct's, with its number.
type field struct {
	number protowire.Number
	value  reflect.Value
}

// fieldsOf returns a struct's fields in the order of their numbers.
func fieldsOf(v reflect.Value) (fields []field) {
	number := protowire.Number(0)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type == reflect.TypeFor[metav1.TypeMeta]() {
			continue
		}
		number++
		if said, err := strconv.Atoi(f.Tag.Get("protobuf")); err == nil {
			number = protowire.Number(said)
		}
		fields = append(fields, field{number, v.Field(i)})
	}
	slices.SortFunc(fields, func(a, b field) int { return int(a.number - b.number) })
	return fields
}

func marshal(message any) ([]byte, error) {
	return appendStruct(nil, reflect.ValueOf(message).Elem(), 0)
}

func appendStruct(out []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	if slices.Contains(foreignTypes, v.Type()) {
		data, err := v.Addr().Interface().(foreign).Marshal()
		return append(out, data...), err
	}
	for _, f := range fieldsOf(v) {
		var err error
		if out, err = appendField(out, f.number, f.value, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func appendField(out []byte, number protowire.Number, v reflect.Value, depth int) ([]byte, error) {
	tag := func(t protowire.Type) { out = protowire.AppendTag(out, number, t) }
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return out, nil
		}
		return appendField(out, number, v.Elem(), depth)
	case reflect.String:
		tag(protowire.BytesType)
		return protowire.AppendString(out, v.String()), nil
	case reflect.Bool:
		tag(protowire.VarintType)
		return protowire.AppendVarint(out, protowire.EncodeBool(v.Bool())), nil
	case reflect.Int32, reflect.Int64:
		tag(protowire.VarintType)
		return protowire.AppendVarint(out, uint64(v.Int())), nil
	case reflect.Float64:
		tag(protowire.Fixed64Type)
		return protowire.AppendFixed64(out, math.Float64bits(v.Float())), nil
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			return appendEach(out, number, v, depth)
		}
		if v.IsNil() {
			return out, nil
		}
		tag(protowire.BytesType)
		return protowire.AppendBytes(out, v.Bytes()), nil
	case reflect.Map:
		return appendMap(out, number, v, depth)
	case reflect.Struct:
		data, err := appendStruct(nil, v, depth+1)
		tag(protowire.BytesType)
		return protowire.AppendBytes(out, data), err
	}
	return nil, fmt.Errorf("%s has no protobuf form", v.Type())
}

func appendEach(out []byte, number protowire.Number, v reflect.Value, depth int) (_ []byte, err error) {
	for i := range v.Len() {
		if out, err = appendField(out, number, v.Index(i), depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendMap writes entries of key 1 and value 2, sorted.
func appendMap(out []byte, number protowire.Number, v reflect.Value, depth int) ([]byte, error) {
	var keys []string
	for _, key := range v.MapKeys() {
		keys = append(keys, key.String())
	}
	slices.Sort(keys)
	for _, key := range keys {
		value := reflect.New(v.Type().Elem()).Elem() // what is in a map has no address
		value.Set(v.MapIndex(reflect.ValueOf(key)))
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
		entry, err := appendField(entry, 2, value, depth)
		if err != nil {
			return nil, err
		}
		out = protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), entry)
	}
	return out, nil
}

func unmarshal(data []byte, message any) error {
	return readStruct(data, reflect.ValueOf(message).Elem(), 0)
}

// readStruct adds what it reads to v. Numbers that it does not know are left
// out: a newer client may know more.
func readStruct(data []byte, v reflect.Value, depth int) error {
	if depth > maxDepth {
		return errTooDeep
	}
	if slices.Contains(foreignTypes, v.Type()) {
		return v.Addr().Interface().(foreign).Unmarshal(data)
	}
	fields := fieldsOf(v)
	return eachField(data, func(number protowire.Number, kind protowire.Type, value []byte) error {
		i := slices.IndexFunc(fields, func(f field) bool { return f.number == number })
		if i < 0 {
			return nil
		}
		if err := readField(value, kind, fields[i].value, depth); err != nil {
			return fmt.Errorf("%s, field %d: %w", v.Type().Name(), number, err)
		}
		return nil
	})
}

// eachField takes a message apart; the lengths of what it shows are checked.
func eachField(data []byte, see func(number protowire.Number, kind protowire.Type, value []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return protowire.ParseError(n)
		}
		if err := see(number, kind, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

var errWireType = errors.New("the wire type is not that of the field")

// readField reads a value, whose length has been checked.
func readField(data []byte, kind protowire.Type, v reflect.Value, depth int) error {
	bytes, _ := protowire.ConsumeBytes(data)
	number, _ := protowire.ConsumeVarint(data)
	wanted := protowire.BytesType
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return readField(data, kind, v.Elem(), depth)
	case reflect.Bool, reflect.Int32, reflect.Int64:
		wanted = protowire.VarintType
	case reflect.Float64:
		wanted = protowire.Fixed64Type
	}
	if kind != wanted {
		return errWireType
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(bytes))
	case reflect.Bool:
		v.SetBool(protowire.DecodeBool(number))
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(number))
	case reflect.Float64:
		bits, _ := protowire.ConsumeFixed64(data)
		v.SetFloat(math.Float64frombits(bits))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(slices.Clone(bytes))
			return nil
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if err := readField(data, kind, item, depth); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	case reflect.Map:
		return readEntry(bytes, v, depth)
	case reflect.Struct:
		return readStruct(bytes, v, depth+1)
	}
	return nil
}

func readEntry(data []byte, v reflect.Value, depth int) error {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	key, value := "", reflect.New(v.Type().Elem()).Elem()
	err := eachField(data, func(number protowire.Number, kind protowire.Type, data []byte) error {
		if number == 1 {
			return readField(data, kind, reflect.ValueOf(&key).Elem(), depth)
		}
		return readField(data, kind, value, depth)
	})
	if err == nil {
		v.SetMapIndex(reflect.ValueOf(key), value)
	}
	return err
}
