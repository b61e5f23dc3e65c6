-- What looks across users.

-- place to continue after, or '', limit: sessions in the order of their ids
function ops.list_all()
  local from = ARGV[3] == '' and '-' or '[' .. ARGV[3] .. '\1'
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', P .. ':sessions', from, '+', 'LIMIT', 0, number(4))) do
    local at = string.find(member, '\0', 1, true)
    local s = keys_of(sub(member, at + 1), sub(member, 1, at - 1))
    found[#found + 1] = s.id
    found[#found + 1] = s.tag
    found[#found + 1] = call('HGETALL', s.key)
  end
  return found
end

-- tag, session id, title, created, updated, version, number of pairs, pairs, '1' for only a new one, rows of
-- place, id, body
function ops.restore()
  local tag, count = ARGV[3], number(9)
  local first = 11 + 2 * count
  local s = keys_of(tag, ARGV[4])
  local owner = owner_of(s.id)
  if owner and ARGV[first - 1] == '1' then return { 'absent' } end
  if owner and owner ~= tag then return { 'taken' } end
  for i = first, #ARGV, 3 do
    if is_elsewhere(s, ARGV[i + 1]) then return { 'conflict' } end
  end
  s.updated = call('HGET', s.key, 'u')
  call('HSET', s.key, 't', ARGV[5], 'c', ARGV[6], 'v', ARGV[8])
  for _, field in ipairs(others(s, 10, count)) do call('HDEL', s.key, field) end
  set_metadata(s, 10, count)
  register(s)
  set_updated(s, ARGV[7])
  for i = first, #ARGV, 3 do
    local place, id = ARGV[i], ARGV[i + 1]
    local member, old = find(s, id)
    if member then
      call('ZREM', s.order, member)
      if sub(old, 1, 18) == sub(place, 1, 18) then place = old end
    end
    insert_at(s, place, id, ARGV[i + 2])
  end
  return { 'ok' }
end

return ops[ARGV[1]]()
